metadata description = 'The Flex Consumption plan and the Function App, with every setting that the code reads.'

import { packageContainer } from '../names.bicep'
import { scaleType, smsType, statusSignInType } from '../types.bicep'

@description('Required. Name of the plan.')
param planName string

@description('Required. Name of the app.')
param name string

@description('Required. Azure region.')
param location string

@description('Required. Tags of the resources.')
param tags resourceInput<'Microsoft.Web/sites@2025-03-01'>.tags

@description('Required. Resource id of the user-assigned identity.')
param identityId string

@description('Required. Client id of it.')
param identityClientId string

@description('Required. Name of the storage account.')
param storageName string

@description('Required. Name of the Key Vault.')
param vaultName string

@description('Required. Where telemetry is sent.')
param telemetryConnectionString string

@description('Required. Id of the subnet of the app; empty for none.')
param subnetId string

@description('Required. Whether instances are kept in several zones.')
param zoneRedundant bool

@description('Required. Size of the app.')
param scale scaleType

@description('Required. When the directory is read, as NCRONTAB of six fields in UTC.')
param sweepSchedule string

@description('Required. How one account is looked up.')
param graphConfirm 'methods' | 'report'

@description('Required. Senders that a campaign file may name.')
param allowedSenders string[]

@description('Required. Hosts that a campaign file may link to.')
param allowedLinkHosts string[]

@description('Required. Where alumni reach the pages.')
param publicBaseUrl string

@description('Required. Verification key of SendGrid\'s Event Webhook, a public key; empty until there is one.')
param sendgridWebhookPublicKey string

@description('Optional. Text messages.')
param sms smsType?

@description('Optional. Sign-in for the status page.')
param statusSignIn statusSignInType?

@description('Required. Object id of the administrators\' group: who may see the status page; empty for everybody of the tenant.')
param administratorsGroupId string

var storageSuffix = environment().suffixes.storage

// Without a version, so that a secret that was rotated is taken within a day.
func secret(vaultUri string, name string) string =>
  '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/${name}/)'

// --- settings ------------------------------------------------------------------------------------

var storageSettings = {
  AzureWebJobsStorage__blobServiceUri: 'https://${storageName}.blob.${storageSuffix}'
  AzureWebJobsStorage__queueServiceUri: 'https://${storageName}.queue.${storageSuffix}'
  AzureWebJobsStorage__tableServiceUri: 'https://${storageName}.table.${storageSuffix}'
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
}

var hostSettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: telemetryConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // The root would show Microsoft's welcome page to alumni.
  AzureWebJobsDisableHomepage: 'true'
}

var productSettings = {
  SWEEP_SCHEDULE: sweepSchedule
  GRAPH_CONFIRM: graphConfirm
  PUBLIC_BASE_URL: publicBaseUrl
  ALLOWED_SENDERS: join(allowedSenders, ',')
  ALLOWED_LINK_HOSTS: join(allowedLinkHosts, ',')
  STATUS_SIGN_IN: statusSignIn == null ? 'none' : 'entra'
  SENDGRID_API_KEY: secret(vault.properties.vaultUri, 'sendgrid-api-key')
  SENDGRID_WEBHOOK_PUBLIC_KEY: sendgridWebhookPublicKey
  LINK_KEYS: secret(vault.properties.vaultUri, 'link-keys')
  ADDRESS_KEY: secret(vault.properties.vaultUri, 'address-key')
}

var smsSettings = sms == null
  ? {}
  : {
      TWILIO_ACCOUNT_SID: secret(vault.properties.vaultUri, 'twilio-account-sid')
      TWILIO_AUTH_TOKEN: secret(vault.properties.vaultUri, 'twilio-auth-token')
      TWILIO_FROM: sms!.from
    }

// The identity's own token stands for the secret of the registration: there is none to leak.
var signInSettings = statusSignIn == null
  ? {}
  : {
      OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID: identityClientId
      WEBSITE_AUTH_AAD_ALLOWED_TENANTS: subscription().tenantId
    }

// --- resources -----------------------------------------------------------------------------------

resource vault 'Microsoft.KeyVault/vaults@2026-05-15' existing = {
  name: vaultName
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { tier: 'FlexConsumption', name: 'FC1' }
  properties: {
    reserved: true
    zoneRedundant: zoneRedundant
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'api' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    outboundVnetRouting: empty(subnetId) ? null : { allTraffic: true }
    siteConfig: {
      minTlsVersion: '1.2'
      ftpsState: 'Disabled'
      http20Enabled: true
    }
    functionAppConfig: {
      runtime: { name: 'python', version: '3.13' }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${storageName}.blob.${storageSuffix}/${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: scale.?memoryMB ?? 2048
        maximumInstanceCount: scale.?maximumInstances ?? 40
        alwaysReady: (scale.?alwaysReadyHttp ?? 0) == 0
          ? []
          : [{ name: 'http', instanceCount: scale.?alwaysReadyHttp }]
        triggers: { http: { perInstanceConcurrency: scale.?httpConcurrency ?? 16 } }
      }
    }
  }
}

// Replaces all settings at each deployment: what was set by hand is gone, and belongs here.
resource settings 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: app
  name: 'appsettings'
  properties: union(storageSettings, hostSettings, productSettings, smsSettings, signInSettings)
}

resource signIn 'Microsoft.Web/sites/config@2025-03-01' = if (statusSignIn != null) {
  parent: app
  name: 'authsettingsV2'
  properties: {
    platform: { enabled: true }
    globalValidation: {
      // Pages for alumni, and what providers call, are open: the code asks for the sign-in at /signed-in.
      requireAuthentication: false
      unauthenticatedClientAction: 'AllowAnonymous'
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: true
        registration: {
          clientId: statusSignIn.?clientId
          clientSecretSettingName: 'OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID'
          openIdIssuer: '${environment().authentication.loginEndpoint}${subscription().tenantId}/v2.0'
        }
        validation: {
          defaultAuthorizationPolicy: {
            allowedPrincipals: {
              groups: empty(administratorsGroupId) ? null : [administratorsGroupId]
            }
          }
        }
      }
    }
    login: { tokenStore: { enabled: false } }
  }
  dependsOn: [settings]
}

@description('Address that Azure gives the app.')
output url string = 'https://${app.properties.defaultHostName}'

@description('What the TXT record `asuid.<host>` of a custom domain has to say.')
output customDomainVerificationId string = app.properties.customDomainVerificationId
