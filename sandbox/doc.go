// Package sandbox gives up, for good and for every thread of the process, what
// a running daemon does not need: capabilities, new privileges, files but those
// named, and system calls that it never makes.
package sandbox
