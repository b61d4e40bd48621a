// Package hostsock makes the daemon's sockets in the file system of the host.
//
// A name of ours appears complete or not at all: with its final mode and owner,
// and accepting connections. It takes the place of a stale socket, one on which
// nobody listens any more, and of nothing else. It goes when its Listener is
// closed, if it is still ours.
package hostsock
