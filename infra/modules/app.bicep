metadata description = 'The Flex Consumption plan and the Function App.'

import { packageContainer } from '../names.bicep'
import { scaleType } from '../types.bicep'

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

@description('Required. Name of the storage account.')
param storageName string

@description('Required. Id of the subnet of the app; empty for none.')
param subnetId string

@description('Required. Whether instances are kept in several zones.')
param zoneRedundant bool

@description('Required. Size of the app.')
param scale scaleType

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
    // Only an app that was created with it can have a certificate of its own on Flex Consumption.
    #disable-next-line BCP037 // Azure takes it; the published types do not name it
    siteScopedCertificatesEnabled: true
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
          value: 'https://${storageName}.blob.${environment().suffixes.storage}/${packageContainer}'
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

@description('Address that Azure gives the app.')
output url string = 'https://${app.properties.defaultHostName}'

@description('What the TXT record `asuid.<host>` of a custom domain has to say.')
output customDomainVerificationId string = app.properties.customDomainVerificationId
