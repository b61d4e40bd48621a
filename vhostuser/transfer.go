package vhostuser

// MaxState is the largest state of a device, in bytes.
const MaxState = 1 << 20
