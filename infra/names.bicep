metadata description = 'The names that code, tests and infrastructure share, out of the one data file.'

var data = loadJsonContent('../shared/names.json')

@export()
@description('Names of queues, tables, containers, metrics and alarms, by their key in the code.')
var names = data

@export()
@description('Every queue: each of the product, and the one beside it for what it gave up on.')
var queueNames = flatten(map(map(items(data.queues), one => one.value), name => [
  name
  '${name}-poison'
]))

@export()
@description('Every table.')
var tableNames = map(items(data.tables), one => one.value)

@export()
@description('Container of the package that the app runs. The code never opens it.')
var packageContainer = 'app-package'

@export()
@description('Every blob container.')
var containerNames = concat(map(items(data.containers), one => one.value), [packageContainer])
