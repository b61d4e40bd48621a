// Package script says what one end of a connection does, and does it.
//
// The same steps run in the guest on AF_VSOCK sockets and on the host on AF_UNIX
// sockets; a test gives each end its steps and compares the two reports.
package script
