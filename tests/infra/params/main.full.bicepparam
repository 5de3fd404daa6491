// Every option at once.
using '../../../infra/main.bicep'

param environmentName = 'test'
param location = 'eastasia'
param allowedSenders = ['its.example.edu', 'no-reply@example.edu']
param allowedLinkHosts = ['its.example.edu', 'mfa.example.edu']
param alertEmails = ['it-alerts@example.edu', 'operations@example.edu']
param administratorsGroupId = '7e1b2a3c-0f4d-4c5e-8a6b-9c0d1e2f3a4b'
param customDomain = { hostName: 'mfa.example.edu', stage: 'secure' }
param sweepSchedule = '0 30 18 * * *'
param graphConfirm = 'methods'
param sendgridWebhookPublicKey = 'MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE'
param sms = { from: '#ExampleU' }
param scale = { memoryMB: 4096, maximumInstances: 100, httpConcurrency: 32, alwaysReadyHttp: 1 }
param budget = { amount: 300, startDate: '2026-12-01' }
param statusSignIn = { clientId: '1f2e3d4c-5b6a-4789-8c9d-0e1f2a3b4c5d' }
param privateNetwork = { addressPrefix: '10.80.0.0/26' }
param zoneRedundant = true
param runbookUrl = 'https://git.example.edu/mfa-nudge/docs/runbook.md'
