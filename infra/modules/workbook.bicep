metadata description = 'The workbook that shows a campaign: people, what was sent, what waits, what went wrong.'

import { names } from '../names.bicep'

@description('Required. Name of the Log Analytics workspace.')
param workspaceName string

@description('Required. Azure region.')
param location string

@description('Required. Tags of the resource.')
param tags resourceInput<'Microsoft.Insights/workbooks@2023-06-01'>.tags

// The file says <<heartbeat>> where a metric is meant, by its key in the shared names.
var text = reduce(
  items(names.metrics),
  loadTextContent('../workbook.json'),
  (done, one) => replace(done, '<<${one.key}>>', one.value)
)

resource workspace 'Microsoft.OperationalInsights/workspaces@2026-03-01' existing = {
  name: workspaceName
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(workspace.id, 'campaign')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'mfa-nudge: campaign'
    category: 'workbook'
    sourceId: workspace.id
    serializedData: text
  }
}
