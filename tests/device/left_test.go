package device

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// So many rounds without anything new mean that all has arrived; in so many it must
// have.
const (
	quietRounds = 6
	drainRounds = 2000
)

// finish lets everything arrive that is on its way, stops the rings, ends the
// session, and lets host programs leave.
func (m *machine) finish() {
	m.final = true
	if !m.wild && m.attached {
		m.startRings()
		m.tasks = append(m.tasks, func() { m.turns = 2 }, m.drain, m.checkArrived)
	}
	for i := range m.rings {
		m.tasks = append(m.tasks, func() { m.stopRing(i) })
	}
	m.tasks = append(m.tasks, m.endSession, m.awaitEnd, m.hostLeaves, m.passLongTime, m.passLongTime, m.checkNothingLeft)
}

// drain lets every end take what it has, until nothing comes any more.
func (m *machine) drain() {
	if m.wild {
		return
	}
	before := m.moved
	m.look()
	for _, c := range m.order {
		c.fwd = c.received
		if c.open && c.told != c.fwd {
			m.send(m.header(c, csm.OpCreditUpdate), 0, 1, nil)
		}
	}
	m.postBuffers(&program{7, 0xff, 0xff, 0})
	for _, c := range m.clients {
		m.hostRead(c, 8)
	}
	m.now += 2 * time.Millisecond // a ring that nobody kicks for is looked at
	if m.quiet++; m.moved != before {
		m.quiet = 0
	}
	if !m.asked && m.quiet == quietRounds {
		m.asked, m.quiet = true, 0
		m.askCredit()
	}
	if m.rounds++; m.rounds == drainRounds {
		m.t.Fatal("there is no end to what comes")
	}
	if m.quiet < quietRounds {
		m.tasks = append([]func(){m.drain}, m.tasks...)
	}
}

// askCredit asks how many bytes host programs were given.
func (m *machine) askCredit() {
	for _, c := range m.order {
		if c.open {
			m.send(m.header(c, csm.OpCreditRequest), 0, 1, nil)
		}
	}
}

// checkArrived checks that what was sent has arrived, where both ends are there.
func (m *machine) checkArrived() {
	if m.wild || !m.attached {
		return
	}
	if len(m.due) > 0 && len(m.transfers) == 0 {
		m.t.Errorf("no reply to %v", m.due)
	}
	for _, c := range m.order {
		if !c.misused && c.open {
			m.checkHostGot(c)
		}
	}
	for _, h := range m.clients {
		if !h.misused && h.fd >= 0 && !h.line {
			m.checkGuestGot(h)
		}
	}
}

// checkHostGot checks that a host program got what the guest has sent, of messages
// the whole ones.
func (m *machine) checkHostGot(c *conn) {
	want := c.sent
	if c.typ == csm.TypeSeqpacket && c.stream.open {
		want -= c.ends[len(c.ends)-1]
	}
	// Whether it is lost if none has it: a host program may not have been accepted, and
	// is gone if its listener is.
	certain := len(m.clients) < maxClients && c.hostShut&csm.ShutdownRcv == 0
	for _, h := range m.clients {
		if h.misused || h.fd < 0 || h.deaf && h.owner == nil {
			certain = certain && h.owner != nil && h.owner != c
			continue
		}
		if h.owner != c {
			continue
		}
		if h.received != want && !h.deaf {
			m.t.Errorf("a host program got %d bytes of %d", h.received, want)
		}
		if c.hostShut&csm.ShutdownRcv != 0 {
			want = c.sent // nobody will read the rest
		}
		givenUp := c.shut&csm.ShutdownSend != 0 && int(c.hostFwd) == c.sent // a message that has no end
		if int(c.hostFwd) != want && !givenUp {
			m.t.Errorf("the guest heard of %d bytes that left of %d", c.hostFwd, want)
		}
		return
	}
	if certain && want > 0 {
		m.t.Errorf("no host program got any of %d bytes", want)
	}
}

// checkGuestGot checks that the guest got what a host program has sent.
func (m *machine) checkGuestGot(h *client) {
	certain := len(m.order) < maxConns
	for _, c := range m.order {
		if c.misused || !c.open || c.shut&csm.ShutdownRcv != 0 {
			certain = certain && c.peer != nil && c.peer != &h.stream
			continue
		}
		if c.peer != &h.stream {
			continue
		}
		if c.received != h.sent {
			m.t.Errorf("the guest got %d bytes of %d", c.received, h.sent)
		}
		return
	}
	if certain && h.sent > 0 {
		m.t.Errorf("the guest got none of %d bytes", h.sent)
	}
}

// hostLeaves ends all host programs.
func (m *machine) hostLeaves() {
	for _, c := range m.clients {
		if c.fd >= 0 {
			unix.Close(c.fd)
		}
	}
	for port, l := range m.listeners {
		unix.Close(l.fd)
		os.Remove(m.portPath(port))
	}
	for _, fd := range m.transfers {
		unix.Close(fd)
	}
	m.turns = 2
}

// passLongTime makes every deadline come.
func (m *machine) passLongTime() {
	m.passTime(&program{3})
	m.turns = 2
}

// checkNothingLeft checks what a device holds that has no peers: no more than
// before the first one came.
func (m *machine) checkNothingLeft() {
	left := map[string]int64{
		"bytes of memory": m.stats.Buffered.Load(), "of them begun": m.stats.BufferedBegun.Load(),
		"clients": m.stats.Clients.Load(), "dials": m.stats.Dials.Load(), "tails": m.stats.Tails.Load(),
		"waits for the guest": m.stats.GuestWaits.Load(),
		"descriptors":         int64(openFds() - m.baseline.fds),
		"mappings of memory":  int64(mappings("guest") - m.baseline.memory),
		"mappings of logs":    int64(mappings("log") - m.baseline.logs),
	}
	for phase := range m.stats.Connections {
		for direction := range m.stats.Connections[phase] {
			left[muxer.Phases[phase]+" "+muxer.Directions[direction]] = m.stats.Connections[phase][direction].Load()
		}
	}
	for what, n := range left {
		if n != 0 {
			m.t.Errorf("%d left: %s", n, what)
		}
	}
	m.checkNothingWaits()
}

// checkNothingWaits checks that no wait is timed any more.
func (m *machine) checkNothingWaits() {
	for what, s := range map[string]*stats.Stopwatch{
		"credit": &m.stats.CreditStalled, "host sockets": &m.stats.HostStalled, "receive buffers": &m.stats.RxRingStalled,
		"replies": &m.stats.ReplyStalled, "memory": &m.stats.BufferStalled,
	} {
		now := s.Seconds(func() time.Duration { return m.now })
		if later := s.Seconds(func() time.Duration { return m.now + time.Hour }); later != now {
			m.t.Errorf("%v waits for %s go on", (later-now)/3600, what)
		}
	}
}

// openFds returns how many descriptors the process has.
func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// mappings returns how often the process has mapped memfds of a name.
func mappings(name string) int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	return strings.Count(string(maps), "/memfd:"+name)
}
