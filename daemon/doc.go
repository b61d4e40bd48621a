// Package daemon is the running program: a fleet of VMs, each with a loop on a
// goroutine of its own, and what belongs to all of them: log, metrics, signals, and
// the sandbox.
package daemon
