{#- All networks and machines on again, by what was made on this host: works with a faulty pillar, or none. -#}
lab-started:
  qemulab.started: []
