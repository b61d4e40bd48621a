// Package device fuzzes the whole device: a vhostuser.Server with a muxer.Muxer
// on an eventloop. A program of bytes says what the frontend, the guest, host
// programs and the clock do; all of them run on the loop's goroutine, between two
// turns, so that a program does the same each time.
package device
