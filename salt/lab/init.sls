{#- The guest before the network: what follows a network at once is begun with it. -#}
include:
  - lab.packages
  - lab.present
  - lab.guest
  - lab.network
  - lab.vms
  - lab.pruned
