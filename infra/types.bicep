metadata description = 'Types of the parameters: what can be chosen, and no more.'

@export()
@sealed()
@description('The address on the institution\'s own domain at which alumni reach the pages.')
type customDomainType = {
  @description('Required. Such as mfa.example.edu.')
  @minLength(4)
  @maxLength(253)
  hostName: string

  @description('Required. `bind` once DNS points to the app; `secure` at every deployment after that one: it makes the certificate and turns TLS on.')
  stage: 'bind' | 'secure'
}

@export()
@sealed()
@description('Size of the app. What leaves it out gets `2048`, `40`, `16` and nothing always ready.')
type scaleType = {
  @description('Optional. MB of an instance. 512 has a quarter of a processor.')
  memoryMB: (512 | 2048 | 4096)?

  @description('Optional. The most instances of each function group: the pages are one, each timer and each queue is another.')
  @minValue(40)
  @maxValue(1000)
  maximumInstances: int?

  @description('Optional. Requests that one instance answers at a time. A refused webhook holds its place for a second.')
  @minValue(1)
  @maxValue(1000)
  httpConcurrency: int?

  @description('Optional. Instances for the pages that never go away, and are billed all day: 0 saves them, 1 spares alumni a cold start.')
  @minValue(0)
  @maxValue(10)
  alwaysReadyHttp: int?
}

@export()
@sealed()
@description('Text messages, through Twilio. Its two secrets are in the Key Vault.')
type smsType = {
  @description('Required. A number with its country code, a registered sender id, or the id of a messaging service (MG…).')
  @minLength(3)
  @maxLength(34)
  from: string
}

@export()
@sealed()
@description('What the resource group may cost in a month before its receivers are told.')
type budgetType = {
  @description('Required. In the currency of the subscription.')
  @minValue(1)
  amount: int

  @description('Required. First day of the month in which it was first deployed, such as 2026-12-01. Azure refuses any later change of it.')
  @minLength(10)
  @maxLength(10)
  startDate: string
}

@export()
@sealed()
@description('A virtual network of its own, with private endpoints for storage and Key Vault.')
type privateNetworkType = {
  @description('Required. A free range of at least 64 addresses, such as 10.80.0.0/26.')
  addressPrefix: string
}

@export()
@sealed()
@description('Sign-in for the status page, by an app registration of the institution that trusts the identity of the app (no secret).')
type statusSignInType = {
  @description('Required. Application (client) id of the registration.')
  @minLength(36)
  @maxLength(36)
  clientId: string
}

@export()
@sealed()
@description('Names of all resources, computed once so that every module and every preview knows them.')
type resourceNamesType = {
  @description('User-assigned identity.')
  identity: string

  @description('Storage account.')
  storage: string

  @description('Key Vault.')
  vault: string

  @description('Log Analytics workspace.')
  workspace: string

  @description('Application Insights.')
  component: string

  @description('Flex Consumption plan.')
  plan: string

  @description('Function App.')
  app: string

  @description('Virtual network.')
  network: string

  @description('Action group.')
  actionGroup: string
}

@export()
@description('The items of a list that is written with commas, without blanks and empty ones.')
func listOf(text string) string[] =>
  filter(map(split(text, ','), one => trim(one)), one => !empty(one))
