metadata name = 'mfa-nudge'
metadata description = 'All that a university needs to run mfa-nudge: one resource group, and everything in it.'

targetScope = 'subscription'

import {
  budgetType
  customDomainType
  privateNetworkType
  resourceNamesType
  scaleType
  smsType
  statusSignInType
} from 'types.bicep'

// --- parameters ----------------------------------------------------------------------------------

@description('Required. Names this installation, such as `prod`: part of all names.')
@minLength(2)
@maxLength(16)
param environmentName string

@description('Required. Azure region. It must offer Flex Consumption.')
param location string

@description('Required. Addresses or domains that a campaign file may name as sender.')
@minLength(1)
param allowedSenders string[]

@description('Required. Hosts that a campaign file may link to.')
@minLength(1)
param allowedLinkHosts string[]

@description('Required. Addresses that alerts are sent to.')
@minLength(1)
param alertEmails string[]

@description('Optional. Object id of the group whose members use `nudge`, save campaign files and secrets, and read the logs.')
@maxLength(36)
param administratorsGroupId string = ''

@description('Optional. The address on the institution\'s own domain. Live mode demands one.')
param customDomain customDomainType?

@description('Optional. Where alumni reach the pages, if a proxy of yours stands before the app.')
param publicBaseUrl string = ''

@description('Optional. When the directory is read: second minute hour day month weekday, in UTC. It must end before the sending window opens.')
@minLength(11)
param sweepSchedule string = '0 0 20 * * *'

@description('Optional. How one account is looked up: live by its `methods`, which needs one permission more, or in the `report`, hours old.')
param graphConfirm 'methods' | 'report' = 'report'

@description('Optional. Verification key of SendGrid\'s Event Webhook. It is a public key.')
param sendgridWebhookPublicKey string = ''

@description('Optional. Text messages.')
param sms smsType?

@description('Optional. Size of the app.')
param scale scaleType?

@description('Optional. What it may cost in a month before somebody is told.')
param budget budgetType?

@description('Optional. Sign-in for the status page.')
param statusSignIn statusSignInType?

@description('Optional. A virtual network with private endpoints.')
param privateNetwork privateNetworkType?

@description('Optional. Several zones, for storage and app: at least two instances of every function group are then always running, and billed.')
param zoneRedundant bool = false

@description('Optional. Address of docs/runbook.md in your copy of this repository: alerts link to its sections.')
param runbookUrl string = 'docs/runbook.md'

// --- names ---------------------------------------------------------------------------------------

// Azure refuses other names of an app, long after the first resources are there.
var installation = contains(environmentName, '_') || toLower(environmentName) != environmentName
  ? fail('environmentName: ${environmentName} has a capital letter or an underscore. Use small letters, digits and dashes')
  : environmentName
var token = uniqueString(subscription().id, installation, location)
var suffix = 'mfa-nudge-${installation}'
var tags = { 'azd-env-name': environmentName, product: 'mfa-nudge' }

var resourceNames resourceNamesType = {
  identity: 'id-${suffix}'
  storage: 'st${token}'
  vault: 'kv-${token}'
  workspace: 'log-${suffix}'
  component: 'appi-${suffix}'
  plan: 'plan-${suffix}'
  app: 'func-${suffix}-${token}'
  network: 'vnet-${suffix}'
  actionGroup: 'ag-${suffix}'
}

// Links lead to the custom domain only when it answers with TLS.
var ownHost = customDomain.?stage == 'secure'
  ? customDomain!.hostName
  : '${resourceNames.app}.azurewebsites.net'

// Regions where Flex Consumption has zones, by Microsoft's page "Reliability in Azure Functions".
// Elsewhere Azure refuses with a 400 that names no reason. `az functionapp
// list-flexconsumption-locations --zone-redundant=true` tells of new ones: add them here.
var zoneRegions = [
  'australiaeast'
  'brazilsouth'
  'canadacentral'
  'centralindia'
  'eastasia'
  'eastus'
  'eastus2'
  'germanywestcentral'
  'israelcentral'
  'italynorth'
  'japaneast'
  'northeurope'
  'norwayeast'
  'polandcentral'
  'southafricanorth'
  'southeastasia'
  'swedencentral'
  'uaenorth'
  'uksouth'
  'westeurope'
  'westus2'
  'westus3'
]
var zones = !zoneRedundant || contains(zoneRegions, location)
  ? zoneRedundant
  : fail('zoneRedundant: Flex Consumption has no zones in ${location}. Choose one of ${join(zoneRegions, ', ')}, or leave zoneRedundant out')

// A /26 gives the app and the endpoints a /27 each: the least that Flex Consumption takes.
var networkPrefix = privateNetwork.?addressPrefix ?? ''
var networkRange = empty(networkPrefix) || int(last(split(networkPrefix, '/'))) <= 26
  ? networkPrefix
  : fail('privateNetwork.addressPrefix: ${networkPrefix} has too few addresses. Choose a free range of at least 64, such as 10.80.0.0/26')

// --- resources -----------------------------------------------------------------------------------

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${suffix}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  scope: group
  params: {
    name: resourceNames.identity
    location: location
    tags: tags
  }
}

module storage 'modules/storage.bicep' = {
  scope: group
  params: {
    name: resourceNames.storage
    location: location
    tags: tags
    zoneRedundant: zones
    private: privateNetwork != null
  }
}

module monitoring 'modules/monitoring.bicep' = {
  scope: group
  params: {
    workspaceName: resourceNames.workspace
    componentName: resourceNames.component
    location: location
    tags: tags
  }
}

module vault 'modules/vault.bicep' = {
  scope: group
  params: {
    name: resourceNames.vault
    location: location
    tags: tags
    private: privateNetwork != null
    workspaceName: resourceNames.workspace
  }
  dependsOn: [monitoring]
}

module network 'modules/network.bicep' = if (privateNetwork != null) {
  scope: group
  params: {
    name: resourceNames.network
    location: location
    tags: tags
    addressPrefix: networkRange
    storageName: resourceNames.storage
    vaultName: resourceNames.vault
  }
  dependsOn: [storage, vault]
}

module roles 'modules/roles.bicep' = {
  scope: group
  params: {
    storageName: resourceNames.storage
    vaultName: resourceNames.vault
    componentName: resourceNames.component
    workspaceName: resourceNames.workspace
    identityId: resourceId(
      subscription().subscriptionId,
      group.name,
      'Microsoft.ManagedIdentity/userAssignedIdentities',
      resourceNames.identity
    )
    identityPrincipalId: identity.outputs.principalId
    administratorsGroupId: administratorsGroupId
  }
  dependsOn: [storage, vault, monitoring]
}

module app 'modules/app.bicep' = {
  scope: group
  params: {
    planName: resourceNames.plan
    name: resourceNames.app
    location: location
    tags: tags
    identityId: resourceId(
      subscription().subscriptionId,
      group.name,
      'Microsoft.ManagedIdentity/userAssignedIdentities',
      resourceNames.identity
    )
    storageName: resourceNames.storage
    subnetId: network.?outputs.appSubnetId ?? ''
    zoneRedundant: zones
    scale: scale ?? {}
  }
  // Roles and private addresses first: the app reads secrets and storage from its first second on.
  dependsOn: [roles]
}

module domain 'modules/domain.bicep' = if (customDomain != null) {
  scope: group
  params: {
    appName: resourceNames.app
    location: location
    customDomain: customDomain!
  }
  dependsOn: [app]
}

module settings 'modules/settings.bicep' = {
  scope: group
  params: {
    appName: resourceNames.app
    identityClientId: identity.outputs.clientId
    storageName: resourceNames.storage
    vaultName: resourceNames.vault
    telemetryConnectionString: monitoring.outputs.connectionString
    sweepSchedule: sweepSchedule
    graphConfirm: graphConfirm
    allowedSenders: allowedSenders
    allowedLinkHosts: allowedLinkHosts
    publicBaseUrl: !empty(publicBaseUrl) ? publicBaseUrl : 'https://${ownHost}'
    sendgridWebhookPublicKey: sendgridWebhookPublicKey
    sms: sms
    statusSignIn: statusSignIn
    administratorsGroupId: administratorsGroupId
  }
  // The domain first: should its certificate not come about, links go on leading where they did.
  dependsOn: [app, domain, vault]
}

module alerts 'modules/alerts.bicep' = {
  scope: group
  params: {
    actionGroupName: resourceNames.actionGroup
    workspaceName: resourceNames.workspace
    location: location
    tags: tags
    alertEmails: alertEmails
    runbookUrl: runbookUrl
    budget: budget
  }
  dependsOn: [monitoring]
}

module workbook 'modules/workbook.bicep' = {
  scope: group
  params: {
    workspaceName: resourceNames.workspace
    location: location
    tags: tags
  }
  dependsOn: [monitoring]
}

// --- outputs: what the operator needs next -------------------------------------------------------

@description('The resource group.')
output AZURE_RESOURCE_GROUP string = group.name

@description('The Function App: for deployments, and for its keys.')
output FUNCTION_APP_NAME string = resourceNames.app

@description('Where the app answers: target of the CNAME record of a custom domain.')
output FUNCTION_APP_URL string = app.outputs.url

@description('The storage account: campaign files go to its container `config`.')
output STORAGE_ACCOUNT_NAME string = resourceNames.storage

@description('The Key Vault that infra/set-secrets.sh fills.')
output KEY_VAULT_NAME string = resourceNames.vault

@description('Whom infra/grant-graph-permissions.sh gives its permissions.')
output IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId

@description('The identity as sign-in and code name it.')
output IDENTITY_CLIENT_ID string = identity.outputs.clientId

@description('Where logs and metrics are.')
output LOG_ANALYTICS_WORKSPACE_NAME string = resourceNames.workspace

@description('What the TXT record `asuid.<host>` has to say.')
output CUSTOM_DOMAIN_VERIFICATION_ID string = app.outputs.customDomainVerificationId
