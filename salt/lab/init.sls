include:
  - lab.packages
  - lab.network
  - lab.vms
  - lab.pruned
