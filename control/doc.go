// Package control is the interface by which people and programs watch and change
// the running program: JSON over HTTP on a UNIX socket. It has the types, the
// server's side over an interface that the program implements, and a client.
//
// docs/CONTROL.md explains the calls.
package control
