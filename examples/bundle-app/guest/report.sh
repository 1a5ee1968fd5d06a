#!/bin/sh
# Runs in the guest: what the machine was baked with, and what it counts.
echo "$GREETING from a machine with $(grep -c ^processor /proc/cpuinfo) processor"
