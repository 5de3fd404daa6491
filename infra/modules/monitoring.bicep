metadata description = 'Log Analytics and Application Insights. Both take data from identities alone, never by a key.'

@description('Required. Name of the workspace.')
param workspaceName string

@description('Required. Name of the Application Insights component.')
param componentName string

@description('Required. Azure region.')
param location string

@description('Required. Tags of the resources.')
param tags resourceInput<'Microsoft.OperationalInsights/workspaces@2026-03-01'>.tags

// No daily cap: on the day on which it is met, alarms are what it would drop. The budget tells of
// the cost.
resource workspace 'Microsoft.OperationalInsights/workspaces@2026-03-01' = {
  name: workspaceName
  location: location
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
    // As long as a campaign may want to look back, and included in the price of ingestion.
    retentionInDays: 90
    features: {
      disableLocalAuth: true
      // Addresses of done links are in it: who may read the workspace is a list of its own.
      enableLogAccessUsingOnlyResourcePermissions: false
    }
  }
}

resource component 'Microsoft.Insights/components@2020-02-02' = {
  name: componentName
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    DisableLocalAuth: true
    // Addresses of alumni are nobody's business here.
    DisableIpMasking: false
  }
}

@description('Where telemetry is sent. Not a secret while local authentication is off.')
output connectionString string = component.properties.ConnectionString
