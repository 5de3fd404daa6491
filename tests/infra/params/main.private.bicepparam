// Storage and secrets within a network of their own.
using '../../../infra/main.bicep'

param environmentName = 'test'
param location = 'eastasia'
param allowedSenders = ['its.example.edu']
param allowedLinkHosts = ['its.example.edu']
param alertEmails = ['it-alerts@example.edu']
param privateNetwork = { addressPrefix: '10.80.0.0/26' }
