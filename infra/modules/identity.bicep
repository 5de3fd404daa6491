metadata description = 'The identity as which the app does everything: storage, secrets, Microsoft Graph, telemetry.'

@description('Required. Name of the identity.')
param name string

@description('Required. Azure region.')
param location string

@description('Required. Tags of the resource.')
param tags resourceInput<'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30'>.tags

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: name
  location: location
  tags: tags
}

@description('Object id of its service principal: what Graph permissions are granted to.')
output principalId string = identity.properties.principalId

@description('Client id: what the code and the host name it by.')
output clientId string = identity.properties.clientId
