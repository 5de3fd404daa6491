// What an installation is given. Values come from the environment, so that `azd env set NAME VALUE`
// or a workflow's variables are the one place where they stand; `nudge doctor --params` says what
// is still missing. Lists are written with commas, objects as JSON.
using 'main.bicep'

import { listOf } from 'types.bicep'

var hostName = readEnvironmentVariable('CUSTOM_DOMAIN', '')
var smsFrom = readEnvironmentVariable('TWILIO_FROM', '')
var budgetStart = readEnvironmentVariable('BUDGET_START', '')
var networkPrefix = readEnvironmentVariable('NETWORK_PREFIX', '')
var signInClientId = readEnvironmentVariable('STATUS_SIGN_IN_CLIENT_ID', '')

param environmentName = readEnvironmentVariable('AZURE_ENV_NAME', 'dev')
param location = readEnvironmentVariable('AZURE_LOCATION', 'eastasia')

// Outside of the campaign file on purpose: whoever edits that one must not be able to write to
// everybody as somebody else, or lead them elsewhere.
param allowedSenders = listOf(readEnvironmentVariable('ALLOWED_SENDERS'))
param allowedLinkHosts = listOf(readEnvironmentVariable('ALLOWED_LINK_HOSTS'))

param alertEmails = listOf(readEnvironmentVariable('ALERT_EMAILS'))
param administratorsGroupId = readEnvironmentVariable('ADMINISTRATORS_GROUP_ID', '')

// CUSTOM_DOMAIN_STAGE=bind for one deployment, once DNS points to the app; then never again.
param customDomain = empty(hostName)
  ? null
  : { hostName: hostName, stage: readEnvironmentVariable('CUSTOM_DOMAIN_STAGE', 'secure') }
param publicBaseUrl = readEnvironmentVariable('PUBLIC_BASE_URL', '')

// UTC. 20:00 is 04:00 in Hong Kong; 350,000 accounts take twelve minutes.
param sweepSchedule = readEnvironmentVariable('SWEEP_SCHEDULE', '0 0 20 * * *')
param graphConfirm = readEnvironmentVariable('GRAPH_CONFIRM', 'report')

param sendgridWebhookPublicKey = readEnvironmentVariable('SENDGRID_WEBHOOK_PUBLIC_KEY', '')
param sms = empty(smsFrom) ? null : { from: smsFrom }

// BUDGET_START: first day of the month of the first deployment. It can never be changed.
param budget = empty(budgetStart)
  ? null
  : {
      amount: int(readEnvironmentVariable('BUDGET_AMOUNT', '200'))
      startDate: budgetStart
    }

param statusSignIn = empty(signInClientId) ? null : { clientId: signInClientId }
param privateNetwork = empty(networkPrefix) ? null : { addressPrefix: networkPrefix }
param zoneRedundant = bool(readEnvironmentVariable('ZONE_REDUNDANT', 'false'))
param scale = json(readEnvironmentVariable('SCALE', '{}'))
param runbookUrl = readEnvironmentVariable('RUNBOOK_URL', 'docs/runbook.md')
