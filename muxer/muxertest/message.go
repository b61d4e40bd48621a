package muxertest

import (
	"io"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// WriteMessage sends p as one message, in pieces of up to 64 KiB as the host's
// credit allows. Like Linux it fails with ErrSize where the message is longer than
// the host's buffer or than the connection's own. Other than Linux, which sends
// nothing for it, it sends an empty message too.
func (c *Conn) WriteMessage(p []byte) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if uint32(len(p)) > min(c.hostAlloc, c.bufAlloc) {
		return ErrSize
	}
	if len(p) == 0 {
		if err := c.writeError(); err != nil {
			return err
		}
		return c.g.send(c.header(csm.OpRW, csm.SeqEOM), nil, time.Now().Add(c.g.d.o.Timeout))
	}
	_, err := c.write(p, csm.SeqEOM)
	return err
}

// ReadMessage returns the next message. Its errors are those of Read: io.EOF also
// where a message has begun and its end will not come. As Linux does it counts a
// message as read only when it is whole, and tells the host of every one.
func (c *Conn) ReadMessage() ([]byte, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for deadline := time.Now().Add(c.g.d.o.Timeout); c.wholeMessage() < 0; {
		switch {
		case c.hostShut&csm.ShutdownSend != 0 || c.shut&csm.ShutdownRcv != 0:
			return nil, io.EOF
		case c.state == over:
			return nil, c.err
		case !wait(&c.changed, deadline):
			return nil, ErrTimeout
		}
	}
	packets := c.wholeMessage() + 1
	message := []byte{}
	for _, p := range c.queue[:packets] {
		message = append(message, p.bytes...)
	}
	c.queue = c.queue[packets:]
	c.fwd += uint32(len(message))
	if c.state == established {
		c.replyWith(csm.OpCreditUpdate, 0)
	}
	return message, nil
}

// wholeMessage returns the index of the packet that ends the first message, or -1.
func (c *Conn) wholeMessage() int {
	for i, p := range c.queue {
		if p.end {
			return i
		}
	}
	return -1
}

// UnreadMessages returns how many whole messages wait to be read.
func (c *Conn) UnreadMessages() (n int) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for _, p := range c.queue {
		if p.end {
			n++
		}
	}
	return n
}

// SetBuffer changes the buffer that the host is offered, as
// SO_VM_SOCKETS_BUFFER_SIZE does, and tells the host.
func (c *Conn) SetBuffer(bytes uint32) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.bufAlloc = bytes
	c.replyWith(csm.OpCreditUpdate, 0)
}
