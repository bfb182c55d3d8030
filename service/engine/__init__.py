"""All that touches vLLM: launcher, worker, sites, slots, block keys, the generate wrapper."""
