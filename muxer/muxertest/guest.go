package muxertest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// What Linux guests do; none of it is in the specification.
const (
	connectTimeout = 2 * time.Second // for the answer to a REQUEST
	closeTimeout   = 8 * time.Second // for the RST that answers a full SHUTDOWN
	packetCost     = 576             // bytes of its buffer that a packet costs, however small
)

var (
	// ErrReset is how a connection fails that was reset by the host.
	ErrReset = errors.New("connection reset by the host")
	// ErrTimeout is how a wait fails that took too long.
	ErrTimeout = errors.New("timed out")
	// ErrClosed is what a connection or listener answers that was closed here.
	ErrClosed = errors.New("closed")
	// ErrSize is how WriteMessage fails where Linux says EMSGSIZE.
	ErrSize = errors.New("message longer than the buffers")
	// ErrPipe is what Write answers when one side has said that it is done.
	ErrPipe = errors.New("broken pipe")
)

// addr is a connection's identity: the host's CID is always 2.
type addr struct{ guest, host uint32 }

// Guest is a guest's vsock: connections on top of a Driver, which it owns.
type Guest struct {
	d    *Driver
	wake int // eventfd: stops the goroutine
	done chan struct{}

	mu              sync.Mutex
	changed         sync.Cond // of tx room and of nothing else
	stopped         bool
	conns           map[addr]*Conn
	listeners       map[uint32]*Listener
	nextPort        uint32
	replies         []csm.Header // that wait for room in the tx ring
	raw             func(Packet) bool
	resets          int // RSTs received
	transportResets int
}

// NewGuest returns a guest that takes d over. It ends with the test.
func NewGuest(d *Driver) *Guest {
	d.tb.Helper()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		d.tb.Fatal("eventfd:", err)
	}
	g := &Guest{
		d: d, wake: wake, done: make(chan struct{}),
		conns: make(map[addr]*Conn), listeners: make(map[uint32]*Listener), nextPort: 1 << 20,
	}
	g.changed.L = &g.mu
	go g.serve()
	d.tb.Cleanup(g.Stop)
	return g
}

// Stop ends the guest as a power cut does: no packet is sent any more. The
// driver may be used again.
func (g *Guest) Stop() {
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		return
	}
	g.stopped = true
	for _, c := range g.conns {
		c.end(ErrClosed)
	}
	for _, l := range g.listeners {
		l.changed.Broadcast()
	}
	g.changed.Broadcast()
	g.mu.Unlock()
	unix.Write(g.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-g.done
	unix.Close(g.wake)
}

// Raw runs f with the driver while nobody else uses it.
func (g *Guest) Raw(f func(d *Driver)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g.d)
}

// OnPacket makes f see every packet first; those for which it returns true are
// seen by nobody else. f must not call the guest.
func (g *Guest) OnPacket(f func(p Packet) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.raw = f
}

// Conns returns how many connections the guest holds, dying ones included.
func (g *Guest) Conns() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Resets returns how many RSTs have come.
func (g *Guest) Resets() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.resets
}

// serve is the guest's interrupt handler.
func (g *Guest) serve() {
	defer close(g.done)
	fds := []unix.PollFd{
		{Fd: int32(g.wake), Events: unix.POLLIN},
		{Fd: int32(g.d.rx.CallFd()), Events: unix.POLLIN},
		{Fd: int32(g.d.tx.CallFd()), Events: unix.POLLIN},
	}
	if e := g.d.o.Events; e != nil {
		fds = append(fds, unix.PollFd{Fd: int32(e.CallFd()), Events: unix.POLLIN})
	}
	for g.interrupt() {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			g.d.tb.Errorf("muxertest: poll: %v", err)
			return
		}
		g.d.rx.Interrupts()
		g.d.tx.Interrupts()
		if e := g.d.o.Events; e != nil {
			e.Interrupts()
		}
	}
}

// interrupt handles all that the device has used, and reports whether the guest
// goes on.
func (g *Guest) interrupt() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.stopped {
		g.handleEvents()
		// A guest with too many replies waiting takes no more packets: the device
		// must not depend on it (virtio v1.4 §5.10.6.1).
		for len(g.replies) < g.d.rx.Config().Size {
			p, ok := g.d.TryRecv()
			if !ok {
				break
			}
			g.receive(p)
		}
		g.d.Reap()
		g.flush()
		g.changed.Broadcast()
		busy := len(g.replies) >= g.d.rx.Config().Size
		if more := g.d.tx.ArmInterrupt(); more {
			continue
		}
		if e := g.d.o.Events; e != nil && e.ArmInterrupt() {
			continue
		}
		if more := g.d.rx.ArmInterrupt(); !more || busy {
			return true
		}
	}
	return false
}

// reply sends a packet without payload, now or when there is room.
func (g *Guest) reply(h csm.Header) {
	if len(g.replies) > 0 || !g.d.TryAdd(h, nil) {
		g.replies = append(g.replies, h)
		return
	}
	g.d.Kick()
}

func (g *Guest) flush() {
	for len(g.replies) > 0 && g.d.TryAdd(g.replies[0], nil) {
		g.replies = g.replies[1:]
	}
	g.d.Kick()
}

// send sends a packet and waits for room where there is none.
func (g *Guest) send(h csm.Header, payload []byte, deadline time.Time) error {
	for len(g.replies) > 0 || !g.d.TryAdd(h, payload) {
		if g.d.tx.ArmInterrupt() {
			g.d.Reap()
			g.flush()
			continue
		}
		if g.stopped {
			return ErrClosed
		}
		if !wait(&g.changed, deadline) {
			return fmt.Errorf("tx ring full: %w", ErrTimeout)
		}
	}
	g.d.Kick()
	return nil
}

// wait is c.Wait with a deadline; false means that it has passed.
func wait(c *sync.Cond, deadline time.Time) bool {
	left := time.Until(deadline)
	if left <= 0 {
		return false
	}
	t := time.AfterFunc(left, func() {
		c.L.Lock()
		c.Broadcast()
		c.L.Unlock()
	})
	c.Wait()
	t.Stop()
	return true
}

// receive handles a packet of the device.
func (g *Guest) receive(p Packet) {
	if g.raw != nil && g.raw(p) {
		return
	}
	if p.Op == csm.OpRST {
		g.resets++
	}
	a := addr{guest: p.DstPort, host: p.SrcPort}
	c := g.conns[a]
	switch {
	case p.Type != csm.TypeStream && p.Type != csm.TypeSeqpacket || p.SrcCID != csm.HostCID:
		g.refuse(&p)
	case c != nil && p.Type != c.typ:
		g.refuse(&p)
	case c != nil && c.connected():
		c.receive(p)
	case p.Op == csm.OpRequest:
		g.request(&p, a)
	case c != nil && p.Op == csm.OpRST: // closed here, and not read to its end
		c.end(ErrReset)
	default:
		g.refuse(&p)
	}
}

// refuse answers a packet that belongs to nobody. An RST is never answered.
func (g *Guest) refuse(p *Packet) {
	if p.Op == csm.OpRST {
		return
	}
	h := g.d.Header(p.DstPort, p.SrcPort, csm.OpRST)
	h.DstCID, h.Type, h.BufAlloc = p.SrcCID, p.Type, 0
	g.reply(h)
}

// request opens a connection for a listener.
func (g *Guest) request(p *Packet, a addr) {
	l := g.listeners[a.guest]
	if l == nil || l.typ != p.Type || len(l.queue) >= l.Backlog {
		g.refuse(p)
		return
	}
	c := g.newConn(a, p.Type)
	c.state = established
	c.credit(&p.Header)
	c.replyWith(csm.OpResponse, 0)
	l.queue = append(l.queue, c)
	l.changed.Broadcast()
}

// Dial connects to a port of the host. It fails with ErrReset when refused, and
// with ErrTimeout after two seconds without an answer.
func (g *Guest) Dial(hostPort uint32) (*Conn, error) { return g.dial(csm.TypeStream, hostPort) }

// DialSeqpacket is Dial for a connection of messages.
func (g *Guest) DialSeqpacket(hostPort uint32) (*Conn, error) {
	return g.dial(csm.TypeSeqpacket, hostPort)
}

func (g *Guest) dial(typ csm.Type, hostPort uint32) (*Conn, error) {
	g.mu.Lock()
	for used := true; used; {
		g.nextPort++
		_, used = g.conns[addr{g.nextPort, hostPort}]
	}
	port := g.nextPort
	g.mu.Unlock()
	return g.dialFrom(typ, port, hostPort)
}

// DialFrom is Dial from a port of the guest's.
func (g *Guest) DialFrom(guestPort, hostPort uint32) (*Conn, error) {
	return g.dialFrom(csm.TypeStream, guestPort, hostPort)
}

func (g *Guest) dialFrom(typ csm.Type, guestPort, hostPort uint32) (*Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil, ErrClosed
	}
	a := addr{guestPort, hostPort}
	if g.conns[a] != nil {
		return nil, fmt.Errorf("guest port %d to host port %d: in use", guestPort, hostPort)
	}
	c := g.newConn(a, typ)
	deadline := time.Now().Add(connectTimeout)
	if err := g.send(c.header(csm.OpRequest, 0), nil, deadline); err != nil {
		c.end(err)
		return nil, err
	}
	for c.state == connecting && c.err == nil {
		if !wait(&c.changed, deadline) {
			c.end(ErrTimeout) // without a word: what comes late is answered by RST
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// Listener takes connections from the host.
type Listener struct {
	Backlog int // connections that wait to be accepted; more are refused

	g       *Guest
	typ     csm.Type
	port    uint32
	queue   []*Conn
	closed  bool
	changed sync.Cond
}

// Listen opens a port for the host.
func (g *Guest) Listen(port uint32) *Listener { return g.listen(csm.TypeStream, port) }

// ListenSeqpacket is Listen for connections of messages.
func (g *Guest) ListenSeqpacket(port uint32) *Listener { return g.listen(csm.TypeSeqpacket, port) }

func (g *Guest) listen(typ csm.Type, port uint32) *Listener {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listeners[port] != nil {
		panic(fmt.Sprintf("muxertest: port %d has a listener", port))
	}
	l := &Listener{Backlog: 4096, g: g, typ: typ, port: port}
	l.changed.L = &g.mu
	g.listeners[port] = l
	return l
}

// Accept returns the next connection of the host.
func (l *Listener) Accept() (*Conn, error) {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	for deadline := time.Now().Add(l.g.d.o.Timeout); len(l.queue) == 0; {
		if l.closed || l.g.stopped {
			return nil, ErrClosed
		}
		if !wait(&l.changed, deadline) {
			return nil, ErrTimeout
		}
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Close ends the listener; what was not accepted is closed.
func (l *Listener) Close() {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	delete(l.g.listeners, l.port)
	for _, c := range l.queue {
		c.close()
	}
	l.queue = nil
	l.changed.Broadcast()
}
