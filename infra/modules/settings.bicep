metadata description = 'Every setting that the code and its host read, and sign-in.'

import { smsType, statusSignInType } from '../types.bicep'

@description('Required. Name of the app.')
param appName string

@description('Required. Client id of it.')
param identityClientId string

@description('Required. Name of the storage account.')
param storageName string

@description('Required. Name of the Key Vault.')
param vaultName string

@description('Required. Where telemetry is sent.')
param telemetryConnectionString string

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
  // The code exports its own telemetry: the host is not to pass it on a second time.
  PYTHON_ENABLE_OPENTELEMETRY: 'true'
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

resource app 'Microsoft.Web/sites@2025-03-01' existing = {
  name: appName
}

resource vault 'Microsoft.KeyVault/vaults@2026-05-15' existing = {
  name: vaultName
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
