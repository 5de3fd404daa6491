metadata description = 'Who is told of what: the action group, the alert rules and the budget.'

import { names } from '../names.bicep'
import { budgetType } from '../types.bicep'

@description('Required. Name of the action group.')
param actionGroupName string

@description('Required. Name of the Log Analytics workspace.')
param workspaceName string

@description('Required. Azure region.')
param location string

@description('Required. Tags of the resources.')
param tags resourceInput<'Microsoft.Insights/scheduledQueryRules@2026-03-01'>.tags

@description('Required. Addresses that every alert is sent to.')
@minLength(1)
param alertEmails string[]

@description('Required. Address of docs/runbook.md, to which every alert links.')
param runbookUrl string

@description('Optional. What the resource group may cost.')
param budget budgetType?

// --- rules ---------------------------------------------------------------------------------------

@sealed()
@description('An alert rule. Its key is the heading of its section in the runbook.')
type ruleType = {
  @description('Required. Name of the rule, and anchor in the runbook.')
  key: string

  @description('Required. What a person reads first.')
  title: string

  @description('Required. What it means, in a sentence.')
  meaning: string

  @description('Required. 1 is for something that keeps mails from people, 2 for something that may.')
  severity: 1 | 2

  @description('Required. Gives rows with a column `Value`, or no row.')
  query: string

  @description('Optional. Columns of the query that the alert names.')
  dimensions: string[]?

  @description('Required. Told above this value.')
  above: int

  @description('Required. How far back it looks.')
  window: 'PT30M' | 'PT1H'

  @description('Required. Whether it ends by itself when its cause does.')
  endsByItself: bool
}

// Sums of our own counters: they are not sampled, and exist from the first tick on.
func sumOf(metric string, condition string, columns string) string =>
  join(
    [
      'AppMetrics'
      '| where Name == "${metric}"'
      condition
      '| summarize Value = sum(Sum) by ${columns}'
    ],
    '\n'
  )

func sumOfAlarms(metric string, alarms string[]) string =>
  sumOf(
    metric,
    '| where tostring(Properties.alarm) in (${join(map(alarms, alarm => '"${alarm}"'), ', ')})',
    'Alarm = tostring(Properties.alarm), About = iff(isempty(tostring(Properties.about)), "-", tostring(Properties.about))'
  )

var alarmRules = [
  {
    key: 'message-died'
    title: 'A queue gave up on a message'
    meaning: 'A function failed five times on one message, or the message was none of ours.'
    severity: 1
    alarms: ['poison', 'parcel_failed']
  }
  {
    key: 'people-unreached'
    title: 'People were not reached in time'
    meaning: 'The day of a touch ended, and people who have a usable contact were not written to.'
    severity: 1
    alarms: ['touch_unreached', 'parcels_expired']
  }
  {
    key: 'parcels-at-rest'
    title: 'Nobody sends what was handed out'
    meaning: 'Parcels lie on a queue that no function empties, or their sender died.'
    severity: 1
    alarms: ['parcels_at_rest', 'claims_abandoned']
  }
  {
    key: 'sending-paused'
    title: 'A campaign or a channel is paused'
    meaning: 'Guards, a fault of the set-up, doubts, bounces or a canary stopped the sending.'
    severity: 1
    alarms: ['channel_paused', 'verdict_pause']
  }
  {
    key: 'receipts-silent'
    title: 'Nothing comes back of what was sent'
    meaning: 'The provider reports nothing, or too little to tell what arrived.'
    severity: 1
    alarms: ['receipts_silent', 'no_receipt', 'mail_dropped']
  }
  {
    key: 'sweep-in-trouble'
    title: 'The directory was not read'
    meaning: 'A sweep ended with nothing to show, stopped on its way, or was not planned.'
    severity: 1
    alarms: ['sweep_abandoned', 'pass_at_rest', 'planning_late']
  }
  {
    key: 'campaign-file'
    title: 'A campaign needs a decision'
    meaning: 'A campaign file has a mistake, its pace is too slow, or completions cannot be looked up.'
    severity: 2
    alarms: ['campaign_mistake', 'pace_too_slow', 'cannot_confirm']
  }
]

var metricRules = [
  {
    key: 'sweep-stale'
    title: 'The last sweep is old'
    meaning: 'No sweep was committed for 30 hours. After 50 nothing is sent any more.'
    severity: 1
    query: join(
      [
        'AppMetrics'
        '| where Name == "${names.metrics.sweepAge}"'
        '| summarize Value = max(Max)'
      ],
      '\n'
    )
    above: 30
    window: 'PT30M'
    endsByItself: true
  }
  {
    key: 'refused'
    title: 'Graph or a provider refuses us'
    meaning: 'Microsoft Graph, SendGrid or Twilio answered 401 or 403: a permission or a key.'
    severity: 1
    query: sumOf(
      names.metrics.refused,
      '| where tostring(Properties.status) in ("401", "403")',
      'Service = tostring(Properties.service), Status = tostring(Properties.status)'
    )
    dimensions: ['Service', 'Status']
    above: 0
    window: 'PT1H'
    endsByItself: false
  }
  {
    key: 'release-fails'
    title: 'Release fails at every tick'
    meaning: 'What hands out mails fails each minute: a setting, a secret or storage.'
    severity: 1
    query: sumOf(
      names.metrics.runs,
      '| where tostring(Properties.outcome) == "failed" and tostring(Properties.function) == "release_due"',
      'Function = tostring(Properties.function)'
    )
    above: 5
    window: 'PT30M'
    endsByItself: true
  }
  {
    key: 'housekeeping-fails'
    title: 'What runs seldom has failed'
    meaning: 'Housekeeping, which deletes contact data, or the start of a sweep failed.'
    severity: 2
    query: sumOf(
      names.metrics.runs,
      '| where tostring(Properties.outcome) == "failed" and tostring(Properties.function) in ("housekeeping", "sweep_start")',
      'Function = tostring(Properties.function)'
    )
    dimensions: ['Function']
    above: 0
    window: 'PT1H'
    endsByItself: false
  }
  {
    key: 'dead-messages-wait'
    title: 'Nobody looks after messages that died'
    meaning: 'Messages lie on a poison queue, which the app empties within seconds while it runs.'
    severity: 1
    query: join(
      [
        'AppMetrics'
        '| where Name == "${names.metrics.queueLength}"'
        '| where tostring(Properties.queue) endswith "-poison"'
        '| summarize Value = min(Max) by Queue = tostring(Properties.queue)'
      ],
      '\n'
    )
    dimensions: ['Queue']
    above: 0
    window: 'PT30M'
    endsByItself: true
  }
  {
    key: 'functions-fail'
    title: 'A function fails again and again'
    meaning: 'Single failures are taken up again by themselves; these are more.'
    severity: 2
    query: sumOf(
      names.metrics.runs,
      '| where tostring(Properties.outcome) == "failed"',
      'Function = tostring(Properties.function)'
    )
    dimensions: ['Function']
    above: 5
    window: 'PT30M'
    endsByItself: true
  }
]

var rules ruleType[] = concat(
  map(alarmRules, rule => {
    key: rule.key
    title: rule.title
    meaning: rule.meaning
    severity: rule.severity
    query: sumOfAlarms(names.metrics.alarms, rule.alarms)
    dimensions: ['Alarm', 'About']
    above: 0
    window: 'PT1H'
    endsByItself: false
  }),
  metricRules
)

// --- resources -----------------------------------------------------------------------------------

resource workspace 'Microsoft.OperationalInsights/workspaces@2026-03-01' existing = {
  name: workspaceName
}

resource actionGroup 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: actionGroupName
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'mfa-nudge'
    emailReceivers: map(alertEmails, address => {
      name: address
      emailAddress: address
      useCommonAlertSchema: true
    })
  }
}

// One row is one minute of release. None for half an hour, and nothing can be relied upon: timers
// of a Flex app have died in silence after a deployment. By count, since where there is no row
// there is nothing to sum.
resource heartbeat 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = {
  name: 'heartbeat-missing'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: 'mfa-nudge does not run'
    description: 'The minute timer has not run for half an hour: nothing is sent, and no other alarm can be raised. What to do: ${runbookUrl}#heartbeat-missing'
    severity: 1
    enabled: true
    scopes: [workspace.id]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT30M'
    criteria: {
      allOf: [
        {
          query: 'AppMetrics\n| where Name == "${names.metrics.heartbeat}"'
          timeAggregation: 'Count'
          operator: 'LessThan'
          threshold: 1
          failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
        }
      ]
    }
    autoMitigate: true
    // The tables of a new workspace are made by the first telemetry.
    skipQueryValidation: true
    actions: { actionGroups: [actionGroup.id] }
  }
}

resource alerts 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [
  for rule in rules: {
    name: rule.key
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: 'mfa-nudge: ${rule.title}'
      description: '${rule.meaning} What to do: ${runbookUrl}#${rule.key}'
      severity: rule.severity
      enabled: true
      scopes: [workspace.id]
      evaluationFrequency: 'PT5M'
      windowSize: rule.window
      criteria: {
        allOf: [
          {
            query: rule.query
            metricMeasureColumn: 'Value'
            timeAggregation: 'Maximum'
            operator: 'GreaterThan'
            threshold: rule.above
            dimensions: map(rule.?dimensions ?? [], column => {
              name: column
              operator: 'Include'
              values: ['*']
            })
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      autoMitigate: rule.endsByItself
      // What needs a person is told once an hour, for as long as it is raised. No longer than the
      // window, so that what is raised meanwhile is told when the silence ends.
      muteActionsDuration: rule.endsByItself ? null : 'PT1H'
      skipQueryValidation: true
      actions: { actionGroups: [actionGroup.id] }
    }
  }
]

resource costs 'Microsoft.Consumption/budgets@2026-06-01' = if (budget != null) {
  name: 'mfa-nudge'
  properties: {
    category: 'Cost'
    amount: budget.?amount ?? 0
    timeGrain: 'Monthly'
    timePeriod: { startDate: budget.?startDate ?? '' }
    notifications: {
      actual: {
        enabled: true
        operator: 'GreaterThan'
        threshold: 80
        thresholdType: 'Actual'
        contactEmails: alertEmails
        contactGroups: [actionGroup.id]
      }
      forecast: {
        enabled: true
        operator: 'GreaterThan'
        threshold: 100
        thresholdType: 'Forecasted'
        contactEmails: alertEmails
        contactGroups: [actionGroup.id]
      }
    }
  }
}
