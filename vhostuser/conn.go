package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Errors of a connection on which nothing more can be understood.
var (
	errTruncated  = errors.New("connection ended inside a message")
	errLostFds    = errors.New("descriptors were lost on the way")
	errTooManyFds = errors.New("message brings too many descriptors")
)

// conn is one frontend's connection: it assembles messages from the pieces they
// come in and sends replies. No call blocks.
type conn struct {
	fd   int // owned
	have int // bytes of buf that are filled
	buf  [HeaderSize + MaxPayload]byte
	fds  []int // owned; came with the message under assembly
	oob  []byte

	out    []byte // the latest reply
	unsent []byte // what the socket has not taken of it
}

// newConn takes ownership of the connected socket fd.
func newConn(fd int) *conn {
	return &conn{fd: fd, oob: make([]byte, unix.CmsgSpace(MaxFds*4))}
}

// close closes the socket and the descriptors of a message that was not taken.
func (c *conn) close() error {
	closeFds(c.fds)
	c.fds = nil
	return os.NewSyscallError("close", unix.Close(c.fd))
}

// fill receives until a whole message is there for take. It returns false when
// the rest is still to come. The error is io.EOF when the frontend closed the
// connection between two messages.
func (c *conn) fill() (whole bool, err error) {
	for {
		want, err := c.want()
		if err != nil {
			return false, err
		}
		if c.have == want {
			return true, nil
		}
		n, err := c.receive(c.buf[c.have:want])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case err != nil:
			return false, err
		case n == 0 && c.have == 0:
			return false, io.EOF
		case n == 0:
			return false, errTruncated
		}
		c.have += n
	}
}

// want returns how many bytes the message under assembly has, as far as that is
// known. Nothing behind them may be received: the kernel would hand over the
// next message's descriptors with this one's bytes.
func (c *conn) want() (int, error) {
	if c.have < HeaderSize {
		return HeaderSize, nil
	}
	h := ParseHeader(c.buf[:])
	return HeaderSize + int(h.Size), h.check()
}

// receive reads into p, at least one byte and at most all of it, or none at the
// end of the stream.
func (c *conn) receive(p []byte) (int, error) {
	const flags = unix.MSG_CMSG_CLOEXEC | unix.MSG_DONTWAIT
	for {
		n, oobn, got, _, err := unix.Recvmsg(c.fd, p, c.oob, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("recvmsg", err)
		}
		c.fds = appendRights(c.fds, c.oob[:oobn])
		switch {
		case got&unix.MSG_CTRUNC != 0:
			return 0, errLostFds
		case len(c.fds) > MaxFds:
			return 0, errTooManyFds
		}
		return n, nil
	}
}

// appendRights appends the descriptors in a control message buffer to fds.
func appendRights(fds []int, oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fds // the kernel writes no other than well-formed ones
	}
	for i := range messages {
		// Others, such as credentials on an inherited socket, are no concern.
		if rights, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		}
	}
	return fds
}

// request returns what the message that fill reported asks for.
func (c *conn) request() Request { return ParseHeader(c.buf[:]).Request }

// take returns the message that fill reported. The message owns its descriptors.
func (c *conn) take() message {
	m := message{Header: ParseHeader(c.buf[:]), payload: c.buf[HeaderSize:c.have], fds: c.fds}
	c.have, c.fds = 0, nil
	return m
}

// reply answers request. The header has exactly the version and REPLY: QEMU and
// UML compare for equality. It leaves in one piece, because UML gives up on a
// message whose rest is not there yet.
// Precondition: flush has returned true since the last reply.
func (c *conn) reply(request Request, payload []byte) error {
	header := Header{Request: request, Flags: FlagVersion | FlagReply, Size: uint32(len(payload))}
	c.out = append(header.AppendTo(c.out[:0]), payload...)
	c.unsent = c.out
	if _, err := c.flush(); !noMemory(err) {
		return err
	}
	return nil // flush comes back to it
}

// flush sends what is left of the latest reply and reports whether all is gone.
func (c *conn) flush() (empty bool, err error) {
	for len(c.unsent) > 0 {
		n, err := unix.SendmsgN(c.fd, c.unsent, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("reply: %w", os.NewSyscallError("sendmsg", err))
		default:
			c.unsent = c.unsent[n:]
		}
	}
	return true, nil
}
