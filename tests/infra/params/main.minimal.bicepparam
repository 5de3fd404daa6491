// The least that can be said.
using '../../../infra/main.bicep'

param environmentName = 'test'
param location = 'eastasia'
param allowedSenders = ['its.example.edu']
param allowedLinkHosts = ['its.example.edu']
param alertEmails = ['it-alerts@example.edu']
