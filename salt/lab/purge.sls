{#- clean, and every disk and file of the lab; packages and the user qemulab stay. -#}
{%- set purge = true %}
{%- include "lab/clean.sls" with context %}
