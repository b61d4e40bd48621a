package muxertest

import (
	"io"
	"sync"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

type connState uint8

const (
	connecting connState = iota
	established
	closing // SHUTDOWN of both directions was sent, the RST is due
	lingers // both directions were shut by the host, bytes are unread
	over
)

// Conn is a connection of the guest, with the manners of a Linux socket.
type Conn struct {
	g       *Guest
	addr    addr
	typ     csm.Type
	state   connState
	err     error // why it is over
	changed sync.Cond
	timer   *time.Timer // for the RST that closing waits for

	shut     uint32 // SHUTDOWN flags that were sent
	hostShut uint32 // SHUTDOWN flags that were received

	// Towards the host.
	sent, hostFwd, hostAlloc uint32

	// From the host.
	queue    []packet // that were not read, the first perhaps in part
	read     int      // bytes of the first that were
	received uint32
	fwd      uint32 // as Linux has it: whole packets
	told     uint32
	bufAlloc uint32
}

// packet is payload that was received.
type packet struct {
	bytes []byte
	end   bool // a message ends with it
}

func (g *Guest) newConn(a addr, typ csm.Type) *Conn {
	c := &Conn{g: g, addr: a, typ: typ, bufAlloc: g.d.o.BufAlloc}
	c.changed.L = &g.mu
	g.conns[a] = c
	return c
}

// GuestPort and HostPort tell the connection's ports.
func (c *Conn) GuestPort() uint32 { return c.addr.guest }
func (c *Conn) HostPort() uint32  { return c.addr.host }

// connected reports whether packets find the connection: Linux takes one that
// the host has shut in both directions out of its table.
func (c *Conn) connected() bool { return c.state < lingers }

// header returns a header with the connection's addresses and credit.
func (c *Conn) header(op csm.Op, flags uint32) csm.Header {
	h := c.g.d.Header(c.addr.guest, c.addr.host, op)
	h.Type, h.Flags, h.BufAlloc, h.FwdCnt = c.typ, flags, c.bufAlloc, c.fwd
	c.told = c.fwd
	return h
}

func (c *Conn) replyWith(op csm.Op, flags uint32) { c.g.reply(c.header(op, flags)) }

// Header returns a header for a packet of this connection, for tests that send
// one on their own.
func (c *Conn) Header(op csm.Op) csm.Header {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.header(op, 0)
}

// credit takes the credit fields that every packet carries.
func (c *Conn) credit(h *csm.Header) {
	c.hostAlloc, c.hostFwd = h.BufAlloc, h.FwdCnt
}

// space returns how many bytes the host takes now.
func (c *Conn) space() int {
	return max(0, int(int64(c.hostAlloc)-int64(c.sent-c.hostFwd)))
}

// receive handles a packet of the connection.
func (c *Conn) receive(p Packet) {
	if ahead := p.FwdCnt - c.sent; p.Op != csm.OpRST && int32(ahead) > 0 {
		c.g.d.tb.Errorf("muxertest: %v acknowledges %d bytes that were not sent", p.Op, ahead)
	}
	c.credit(&p.Header)
	switch p.Op {
	case csm.OpRST:
		c.end(ErrReset)
	case csm.OpResponse:
		if c.state == connecting {
			c.state = established
		}
	case csm.OpRequest:
		c.g.d.tb.Errorf("muxertest: a second REQUEST for ports %v", c.addr)
	case csm.OpShutdown:
		c.receiveShutdown(p.Flags)
	case csm.OpRW:
		c.receiveRW(p.Payload, p.Flags)
	case csm.OpCreditRequest:
		c.replyWith(csm.OpCreditUpdate, 0)
	}
	c.changed.Broadcast()
}

func (c *Conn) receiveShutdown(flags uint32) {
	if c.state == connecting {
		c.g.d.tb.Errorf("muxertest: SHUTDOWN before RESPONSE for ports %v", c.addr)
	}
	if c.state != established {
		return
	}
	c.hostShut |= flags & csm.ShutdownBoth
	if c.hostShut != csm.ShutdownBoth {
		return
	}
	if len(c.queue) == 0 {
		c.replyWith(csm.OpRST, 0)
		c.end(io.EOF)
	} else {
		c.state = lingers
	}
}

func (c *Conn) receiveRW(payload []byte, flags uint32) {
	tb := c.g.d.tb
	switch {
	case c.state == closing: // nobody reads any more
		return
	case c.state != established:
		tb.Errorf("muxertest: RW before RESPONSE for ports %v", c.addr)
		return
	case c.hostShut&csm.ShutdownSend != 0:
		tb.Errorf("muxertest: RW after SHUTDOWN for ports %v", c.addr)
	case len(payload) == 0 && (c.typ == csm.TypeStream || flags != csm.SeqEOM):
		tb.Errorf("muxertest: RW without payload for ports %v", c.addr)
	case c.typ == csm.TypeStream && flags != 0, flags&^csm.SeqEOM != 0:
		tb.Errorf("muxertest: RW with flags %#x for ports %v", flags, c.addr)
	}
	c.received += uint32(len(payload))
	if used := c.received - c.fwd; used > c.bufAlloc {
		tb.Errorf("muxertest: %d bytes unread with a buffer of %d for ports %v", used, c.bufAlloc, c.addr)
	}
	c.queue = append(c.queue, packet{append([]byte(nil), payload...), flags&csm.SeqEOM != 0})
	if uint32(len(c.queue))*packetCost > c.bufAlloc {
		tb.Errorf("muxertest: %d packets unread with a buffer of %d for ports %v: Linux resets", len(c.queue), c.bufAlloc, c.addr)
	}
}

// end takes the connection out of the table.
func (c *Conn) end(err error) {
	if c.state == over {
		return
	}
	c.state, c.err = over, err
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.g.conns[c.addr] == c {
		delete(c.g.conns, c.addr)
	}
	c.changed.Broadcast()
	c.g.changed.Broadcast()
}

// Read returns bytes of the host. It fails with io.EOF once the host has said
// that no more come, with ErrReset after RST and with ErrTimeout.
func (c *Conn) Read(p []byte) (int, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for deadline := time.Now().Add(c.g.d.o.Timeout); len(c.queue) == 0; {
		switch {
		case c.hostShut&csm.ShutdownSend != 0 || c.shut&csm.ShutdownRcv != 0:
			return 0, io.EOF
		case c.state == over:
			return 0, c.err
		case !wait(&c.changed, deadline):
			return 0, ErrTimeout
		}
	}
	n := 0
	for n < len(p) && len(c.queue) > 0 {
		k := copy(p[n:], c.queue[0].bytes[c.read:])
		n, c.read = n+k, c.read+k
		if c.read == len(c.queue[0].bytes) {
			c.fwd += uint32(c.read)
			c.queue, c.read = c.queue[1:], 0
		}
	}
	c.creditUpdate()
	return n, nil
}

// creditUpdate tells the host of room by the rule of Linux: when less than a
// full packet of it is left, or nothing is left to read.
func (c *Conn) creditUpdate() {
	freed := c.fwd - c.told
	if c.state != established || freed == 0 {
		return
	}
	if free := int(c.bufAlloc) - int(freed); free < csm.MaxPayload || len(c.queue) == 0 {
		c.replyWith(csm.OpCreditUpdate, 0)
	}
}

// Unread returns how many bytes wait to be read.
func (c *Conn) Unread() int {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	n := -c.read
	for _, p := range c.queue {
		n += len(p.bytes)
	}
	return n
}

// Write sends p in packets of up to 64 KiB, as the host's credit allows.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.write(p, 0)
}

// write sends p, the last packet with these flags.
func (c *Conn) write(p []byte, last uint32) (n int, err error) {
	deadline := time.Now().Add(c.g.d.o.Timeout)
	for n < len(p) {
		if err := c.writeError(); err != nil {
			return n, err
		}
		size := min(len(p)-n, csm.MaxPayload, c.space())
		if size == 0 {
			if !wait(&c.changed, deadline) {
				return n, ErrTimeout
			}
			continue
		}
		flags := uint32(0)
		if n+size == len(p) {
			flags = last
		}
		c.sent += uint32(size)
		if err := c.g.send(c.header(csm.OpRW, flags), p[n:n+size], deadline); err != nil {
			return n, err
		}
		n += size
	}
	return n, nil
}

// writeError returns why nothing can be sent any more, if so.
func (c *Conn) writeError() error {
	switch {
	case c.state == over && c.err == io.EOF:
		return ErrPipe
	case c.state == over:
		return c.err
	case c.shut&csm.ShutdownSend != 0 || c.hostShut&csm.ShutdownRcv != 0 || c.state != established:
		return ErrPipe
	}
	return nil
}

// Send sends a packet whatever state and credit allow, for tests that break the
// rules. Payload counts as sent.
func (c *Conn) Send(op csm.Op, flags uint32, payload []byte) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.sent += uint32(len(payload))
	return c.g.send(c.header(op, flags), payload, time.Now().Add(c.g.d.o.Timeout))
}

// Shutdown tells the host what this side will not do any more.
func (c *Conn) Shutdown(flags uint32) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.state != established {
		return ErrClosed
	}
	c.shut |= flags
	return c.g.send(c.header(csm.OpShutdown, flags), nil, time.Now().Add(c.g.d.o.Timeout))
}

// Reset ends the connection by RST.
func (c *Conn) Reset() {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.state != over {
		c.replyWith(csm.OpRST, 0)
		c.end(ErrClosed)
	}
}

// Close ends the connection as Linux does: SHUTDOWN of both directions, RST by
// the host; after eight seconds, or if the host has shut both, RST from here. It
// does not wait; WaitOver does.
func (c *Conn) Close() error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.close()
	return nil
}

func (c *Conn) close() {
	switch c.state {
	case lingers:
		c.replyWith(csm.OpRST, 0)
		c.end(ErrClosed)
	case established:
		c.state, c.queue = closing, nil
		c.shut |= csm.ShutdownBoth
		c.replyWith(csm.OpShutdown, csm.ShutdownBoth)
		c.timer = time.AfterFunc(closeTimeout, c.giveUp)
		c.changed.Broadcast()
	}
}

// giveUp ends a connection whose RST did not come.
func (c *Conn) giveUp() {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.state == closing && !c.g.stopped {
		c.replyWith(csm.OpRST, 0)
		c.end(ErrTimeout)
	}
}

// WaitOver waits until the connection is out of the guest's table and returns
// why: ErrReset after an RST, io.EOF when the host has closed, ErrTimeout when
// the guest had to give up or this wait took too long.
func (c *Conn) WaitOver() error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for deadline := time.Now().Add(c.g.d.o.Timeout); c.state != over; {
		if !wait(&c.changed, deadline) {
			return ErrTimeout
		}
	}
	return c.err
}

// HostShut returns the SHUTDOWN flags that have come.
func (c *Conn) HostShut() uint32 {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.hostShut
}

// WaitHostShut waits for SHUTDOWN flags, or for the end of the connection.
func (c *Conn) WaitHostShut(flags uint32) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for deadline := time.Now().Add(c.g.d.o.Timeout); c.hostShut&flags != flags; {
		switch {
		case c.state == over:
			return c.err
		case !wait(&c.changed, deadline):
			return ErrTimeout
		}
	}
	return nil
}
