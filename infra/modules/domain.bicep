metadata description = 'The address on the institution\'s own domain: bound first, then with a certificate of the app\'s own.'

import { customDomainType } from '../types.bicep'

@description('Required. Name of the app.')
param appName string

@description('Required. Azure region.')
param location string

@description('Required. The address and its stage.')
param customDomain customDomainType

resource app 'Microsoft.Web/sites@2025-03-01' existing = {
  name: appName
}

// Only once: declared again over a secured address this would turn TLS off.
resource binding 'Microsoft.Web/sites/hostNameBindings@2025-03-01' = if (customDomain.stage == 'bind') {
  parent: app
  name: customDomain.hostName
  properties: { hostNameType: 'Verified', sslState: 'Disabled' }
}

// Flex Consumption takes certificates of the site, not those of a plan. Azure issues and renews it
// while DNS points to the app.
resource certificate 'Microsoft.Web/sites/certificates@2025-03-01' = if (customDomain.stage == 'secure') {
  parent: app
  name: replace(customDomain.hostName, '.', '-')
  location: location
  properties: { canonicalName: customDomain.hostName }
}

resource secured 'Microsoft.Web/sites/hostNameBindings@2025-03-01' = if (customDomain.stage == 'secure') {
  parent: app
  name: customDomain.hostName
  properties: {
    hostNameType: 'Verified'
    sslState: 'SniEnabled'
    thumbprint: certificate!.properties.thumbprint
  }
}
