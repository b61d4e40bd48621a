package device

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

const (
	ports      = 4
	maxConns   = 48
	maxClients = 48
)

// client is a host program's end of a connection.
type client struct {
	fd   int
	typ  csm.Type
	line bool // "OK" is still due
	stream
	shut     bool
	deaf     bool    // it shut what it reads by: it may miss bytes
	peer     *stream // what the guest sends
	owner    *conn   // whose that is
	received int
	messages int
	misused  bool
}

// hosts is what stays from one program to the next: where the device listens.
type hosts struct {
	path      string
	listeners map[csm.Type]int
	buffer    []byte
}

func newHosts(tb testing.TB) *hosts {
	h := &hosts{path: filepath.Join(tb.TempDir(), "v"), listeners: make(map[csm.Type]int), buffer: make([]byte, 300<<10)}
	for typ := csm.TypeStream; typ <= csm.TypeSeqpacket; typ++ {
		h.listeners[typ] = listenAt(tb, typ, h.pathOf(typ))
	}
	return h
}

// pathOf returns where the device listens for connections of a type.
func (h *hosts) pathOf(typ csm.Type) string {
	if typ == csm.TypeSeqpacket {
		return h.path + "_seqpacket"
	}
	return h.path
}

// listener returns a descriptor of the socket where the device listens, which
// nobody else has connected to.
func (h *hosts) listener(tb testing.TB, typ csm.Type) int {
	for {
		fd, _, err := unix.Accept4(h.listeners[typ], unix.SOCK_CLOEXEC)
		if err != nil {
			break
		}
		unix.Close(fd)
	}
	fd, err := unix.FcntlInt(uintptr(h.listeners[typ]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return fd
}

// listenAt returns a socket that listens at path.
func listenAt(tb testing.TB, typ csm.Type, path string) int {
	os.Remove(path)
	fd := newSocket(tb, typ)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Listen(fd, 2); err != nil {
		tb.Fatal(err)
	}
	return fd
}

func newSocket(tb testing.TB, typ csm.Type) int {
	kind := unix.SOCK_STREAM
	if typ == csm.TypeSeqpacket {
		kind = unix.SOCK_SEQPACKET
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return fd
}

func (m *machine) portPath(port int) string { return fmt.Sprintf("%s_%d", m.hosts.path, port) }

// listen begins or ends to listen at a port.
func (m *machine) listen(p *program) {
	port, typ := p.below(ports), csm.Type(1+p.below(2))
	if fd, there := m.listeners[port]; there {
		unix.Close(fd.fd)
		os.Remove(m.portPath(port))
		delete(m.listeners, port)
		return
	}
	m.listeners[port] = listening{listenAt(m.t, typ, m.portPath(port)), typ}
}

type listening struct {
	fd  int
	typ csm.Type
}

// accept takes the connections that have come.
func (m *machine) accept() {
	for port := range ports {
		l, there := m.listeners[port]
		for there && len(m.clients) < maxClients {
			fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err != nil {
				break
			}
			m.clients = append(m.clients, &client{fd: fd, typ: l.typ, stream: m.newStream()})
			m.moved++
		}
	}
}

// connect connects to the device.
func (m *machine) connect(p *program) {
	typ, port, line := csm.Type(1+p.below(2)), p.below(ports), p.below(4) > 0
	if len(m.clients) == maxClients {
		return
	}
	fd := newSocket(m.t, typ)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: m.hosts.pathOf(typ)}) != nil {
		unix.Close(fd)
		return
	}
	c := &client{fd: fd, typ: typ, line: true, misused: !line, stream: m.newStream()}
	m.clients = append(m.clients, c)
	if line {
		unix.Write(fd, []byte("CONNECT "+strconv.Itoa(port)+"\n"))
	}
}

// client picks one of the host programs.
func (m *machine) client(p *program) *client {
	n := p.next()
	if len(m.clients) == 0 {
		return nil
	}
	return m.clients[int(n)%len(m.clients)]
}

// hostWrite writes the next bytes of a host program, or a message.
func (m *machine) hostWrite(p *program) {
	c, n := m.client(p), p.u16()
	if c == nil || c.fd < 0 || c.shut || n == 0 && len(c.ends) == 0 || n == 0 && c.typ == csm.TypeStream {
		return
	}
	next := c.stream
	next.ends = append([]int(nil), c.ends...)
	b := make([]byte, n)
	next.produce(b, true)
	written, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err != nil {
		return
	}
	next.sent = c.sent + written
	c.stream = next
}

// hostRead reads what a host program has, up to a number of reads.
func (m *machine) hostRead(c *client, reads int) {
	if c == nil || c.fd < 0 {
		return
	}
	for range reads {
		n, _, flags, _, err := unix.Recvmsg(c.fd, m.buffer, nil, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		b := m.buffer[:n]
		if c.line {
			if n == 0 {
				return
			}
			end := 0
			for end < n && b[end] != '\n' {
				end++
			}
			if end == n || string(b[:3]) != "OK " {
				m.t.Fatalf("a host program reads %q", b[:min(n, 40)])
			}
			c.line = false
			if b = b[end+1:]; len(b) == 0 {
				continue
			}
		}
		if flags&unix.MSG_TRUNC != 0 {
			m.t.Fatal("message is longer than any")
		}
		if n == 0 && c.typ == csm.TypeStream {
			m.checkEndOfFile(c)
			return
		}
		m.moved += min(n, 1) // end of file comes again and again
		m.hostReceived(c, b)
	}
}

// hostReceived checks bytes or a message that a host program has read.
func (m *machine) hostReceived(c *client, b []byte) {
	if m.wild || c.misused {
		return
	}
	if c.received == 0 && len(b) > 0 {
		if b[0] < ownFirst && m.anonymous {
			c.misused = true
			return
		}
		c.peer = m.streamOf(b[0])
		c.owner = m.ownerOf(b[0])
		if c.owner != nil && c.owner.misused {
			c.misused = true
			return
		}
	}
	if len(b) == 0 {
		return // end of file, for the guest here sends no empty message
	}
	m.compare(c.peer, c.received, b)
	c.received += len(b)
	if c.typ == csm.TypeSeqpacket {
		m.compareMessage(c.peer, c.messages, len(b))
		c.messages++
	}
}

// checkEndOfFile checks that a host program got all of a guest's stream that has
// ended. A guest that may have been too slow for one of its deadlines lost the
// connection, and need not know.
func (m *machine) checkEndOfFile(h *client) {
	c := h.owner
	if m.wild || h.misused || h.deaf || c == nil || c.misused || c.expired != m.expired {
		return
	}
	ended := c.shut == csm.ShutdownRcv|csm.ShutdownSend // is answered by RST
	if (c.open || c.left || ended) && h.received != c.sent {
		m.t.Errorf("a host program got %d bytes of %d before end of file", h.received, c.sent)
	}
}

// shutHost shuts a host program's socket down, or closes it.
func (m *machine) shutHost(p *program) {
	c, how := m.client(p), p.below(4)
	if c == nil || c.fd < 0 {
		return
	}
	if how == 3 {
		unix.Close(c.fd)
		c.fd = -1
		return
	}
	c.shut = c.shut || how != unix.SHUT_RD
	c.deaf = c.deaf || how != unix.SHUT_WR
	unix.Shutdown(c.fd, how)
}

// anyBytes writes any bytes as a host program.
func (m *machine) anyBytes(p *program) {
	c := m.client(p)
	b := append([]byte(nil), p.take(p.below(64))...)
	if c == nil || c.fd < 0 {
		return
	}
	c.misused = true
	if s := m.connOf(&c.stream); s != nil {
		s.misused = true
	}
	m.anonymous = true // they may reach a guest that cannot know whose they are
	for i := range b {
		b[i] &^= ownFirst
	}
	unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// streamOf returns who sends a stream that begins with this byte.
func (m *machine) streamOf(first byte) *stream {
	if c := m.ownerOf(first); c != nil {
		return &c.stream
	}
	for _, c := range m.clients {
		if c.seed == first {
			return &c.stream
		}
	}
	return nil
}

// isMisused reports whether a host program that sends a stream which begins with
// this byte has sent others too.
func (m *machine) isMisused(first byte) bool {
	for _, c := range m.clients {
		if c.seed == first {
			return c.misused
		}
	}
	return false
}

// ownerOf returns the guest's connection of a stream that begins with this byte.
func (m *machine) ownerOf(first byte) *conn {
	for _, c := range m.order {
		if c.seed == first {
			return c
		}
	}
	return nil
}

// connOf returns the guest's connection that receives a stream.
func (m *machine) connOf(s *stream) *conn {
	for _, c := range m.order {
		if c.peer == s {
			return c
		}
	}
	return nil
}

// misuse lets the host programs' end of a connection be checked no more.
func (m *machine) misuse(c *conn) {
	for _, h := range m.clients {
		if h.owner == c {
			h.misused = true
		}
	}
}
