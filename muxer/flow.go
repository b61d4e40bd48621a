package muxer

import (
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// flow is what differs between connections of bytes and of messages: how payload
// passes between a host socket and the guest. Its methods are for sockets that are
// open, and those that name guest memory for ranges of Muxer.txBufs.
type flow interface {
	// takeLine takes the CONNECT line off the socket. It reports whether that was
	// there; the error is io.EOF or says what is wrong with the line.
	takeLine() (port uint32, ok bool, err error)
	// sayOK writes the OK line, whole or not at all.
	sayOK(line []byte) error

	// mayWrite reports whether payload of the guest may follow what was written.
	mayWrite() bool
	// write passes payload on and reports whether the socket has taken all of it;
	// end tells that it is the end of a message.
	write(from, to int, end bool) bool
	// keep copies payload that was not written.
	keep(from, to int, end bool)
	// empty reports whether nothing is kept.
	empty() bool
	// waits reports whether something is kept that can be written.
	waits() bool
	// flush writes what waits and returns how many bytes left before an error.
	flush() (n int, err error)
	// dropBegun drops what is kept and can never be written; release drops all
	// that is kept. They return how many bytes that was.
	dropBegun() int
	release() int

	// pump moves payload from the socket to the guest, one read's worth, and
	// returns how many packets and bytes went.
	pump() (packets, bytes int)
	// outgrown reports whether a message is on its way to the guest that its buffer
	// has become too small for: more credit would not come.
	outgrown() bool
	// unread reports whether payload waits in the socket.
	unread() bool
	// readAway discards what waits in the socket and reports whether that was all.
	readAway() bool
}

// newConn returns a conn, in no table yet, that owns fd.
func (m *Muxer) newConn(fd int, typ csm.Type) *conn {
	c := &conn{m: m, fd: fd, typ: typ, reason: ResetClosed, born: m.loop.Now()}
	if typ == csm.TypeSeqpacket {
		c.flow = newMessages(c)
	} else {
		c.flow = &stream{c: c, readHint: minReadHint}
	}
	return c
}

// knows reports whether the driver speaks a socket type (virtio v1.4 §5.10.3).
func (m *Muxer) knows(typ csm.Type) bool {
	return typ == csm.TypeStream || typ == csm.TypeSeqpacket && m.seqpacket
}

// socketType returns the type of AF_UNIX socket that carries a connection.
func socketType(typ csm.Type) int {
	if typ == csm.TypeSeqpacket {
		return unix.SOCK_SEQPACKET
	}
	return unix.SOCK_STREAM
}
