metadata description = 'Who may do what: the app\'s identity on three resources, and the administrators\' group. Reasons stand in docs/permissions.md.'

import { names } from '../names.bicep'

@description('Required. Name of the storage account.')
param storageName string

@description('Required. Name of the Key Vault.')
param vaultName string

@description('Required. Name of the Application Insights component.')
param componentName string

@description('Required. Name of the Log Analytics workspace.')
param workspaceName string

@description('Required. Resource id of the identity of the app: names its assignments.')
param identityId string

@description('Required. Object id of the identity\'s service principal.')
param identityPrincipalId string

@description('Required. Object id of the administrators\' group; empty for none.')
param administratorsGroupId string

var roles = {
  blobOwner: 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
  blobContributor: 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
  blobReader: '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
  queueContributor: '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
  tableContributor: '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
  metricsPublisher: '3913510d-42f4-4e42-8a64-420c390055eb'
  secretsUser: '4633458b-17de-408a-b874-0445c86b69e6'
  secretsOfficer: 'b86a8fe4-44ce-4948-aee5-eccb2c155cd7'
  logReader: '73c42c96-874c-492b-b04d-ab87d138a893'
  reader: 'acdd72a7-3385-48ef-bd42-f606fba81ae7'
}

resource storage 'Microsoft.Storage/storageAccounts@2026-06-01' existing = {
  name: storageName

  resource blobs 'blobServices' existing = {
    name: 'default'
  }
}

resource vault 'Microsoft.KeyVault/vaults@2026-05-15' existing = {
  name: vaultName
}

resource component 'Microsoft.Insights/components@2020-02-02' existing = {
  name: componentName
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2026-03-01' existing = {
  name: workspaceName
}

// --- the app -------------------------------------------------------------------------------------

// Blobs as owner: the host keeps its locks and keys in containers that it makes itself.
var storageRoles = [roles.blobOwner, roles.queueContributor, roles.tableContributor]

resource appOnStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in storageRoles: {
    name: guid(storage.id, identityId, role)
    scope: storage
    properties: {
      principalId: identityPrincipalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
    }
  }
]

resource appOnVault 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, identityId, roles.secretsUser)
  scope: vault
  properties: {
    principalId: identityPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.secretsUser
    )
  }
}

resource appOnComponent 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(component.id, identityId, roles.metricsPublisher)
  scope: component
  properties: {
    principalId: identityPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.metricsPublisher
    )
  }
}

// --- the administrators --------------------------------------------------------------------------

// What the `nudge` command does as whoever types it: reads and writes the ledger, asks for plans,
// saves campaign files, looks a person up in the pages of the last sweep. Outboxes, which hold the
// same data once more, it never opens.
var administratorsOnAccount = empty(administratorsGroupId)
  ? []
  : [roles.queueContributor, roles.tableContributor]

var administratorsOnContainers = empty(administratorsGroupId)
  ? []
  : [
      { container: names.containers.config, role: roles.blobContributor }
      { container: names.containers.versions, role: roles.blobContributor }
      { container: names.containers.pages, role: roles.blobReader }
    ]

resource containers 'Microsoft.Storage/storageAccounts/blobServices/containers@2026-06-01' existing = [
  for one in administratorsOnContainers: {
    parent: storage::blobs
    name: one.container
  }
]

resource administratorsOnStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for role in administratorsOnAccount: {
    name: guid(storage.id, administratorsGroupId, role)
    scope: storage
    properties: {
      principalId: administratorsGroupId
      principalType: 'Group'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
    }
  }
]

resource administratorsOnBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (one, index) in administratorsOnContainers: {
    name: guid(containers[index].id, administratorsGroupId, one.role)
    scope: containers[index]
    properties: {
      principalId: administratorsGroupId
      principalType: 'Group'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', one.role)
    }
  }
]

resource administratorsOnVault 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(administratorsGroupId)) {
  name: guid(vault.id, administratorsGroupId, roles.secretsOfficer)
  scope: vault
  properties: {
    principalId: administratorsGroupId
    principalType: 'Group'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.secretsOfficer
    )
  }
}

resource administratorsOnLogs 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(administratorsGroupId)) {
  name: guid(workspace.id, administratorsGroupId, roles.logReader)
  scope: workspace
  properties: {
    principalId: administratorsGroupId
    principalType: 'Group'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.logReader
    )
  }
}

// The workbook, alerts and deployments are resources of the group.
resource administratorsOnGroup 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(administratorsGroupId)) {
  name: guid(resourceGroup().id, administratorsGroupId, roles.reader)
  properties: {
    principalId: administratorsGroupId
    principalType: 'Group'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.reader
    )
  }
}
