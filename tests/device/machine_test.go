package device

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// memory is the guest's RAM.
var memory = virtqueuetest.Extent{GuestAddr: 1 << 20, Size: 8 << 20}

// turnsToStop is how many turns a session may take to stop a ring.
const turnsToStop = 200

// machine is a device with all its peers. It is the worker of the loop: after a
// turn of the device it does what the program has next.
type machine struct {
	t       testing.TB
	now     time.Duration // by the loop's clock
	loop    *eventloop.Loop
	server  *vhostuser.Server
	mux     *muxer.Muxer
	stats   muxer.Stats
	path    string
	program program
	turns   int         // of the device before the program goes on
	tasks   []func()    // to do before the program goes on
	waits   func() bool // nil, or what has to come true before the next task
	waited  int

	// The frontend.
	frontend  int
	attached  bool
	features  uint64
	spoken    []byte // by the backend, not looked at
	saved     []byte // the device's state
	saving    bool
	transfers []int // our ends

	// The guest.
	mem        *virtqueuetest.Memory
	options    virtqueuetest.Options
	rings      []*ring
	cid        uint64 // as the driver has read it
	configured uint64
	conns      map[address]*conn
	order      []*conn // all that were

	// Host programs.
	listeners map[int]listening
	clients   []*client
	buffer    []byte
	seeds     int

	// What the peers did that ends checks.
	anonymous bool // bytes may come that are no stream's
	wild      bool // messages, rings or memory are not what is thought here
	hostile   bool // rings or memory
	gone      bool // memory
	final     bool // the program is over
}

// Bits of a program's first byte.
const (
	withPacked = 1 << iota
	withEventIdx
	withIndirect
	withSeqpacket
	withEvents
	withSmallRing
)

// play runs a program, and checks that nothing is left of it.
func play(t testing.TB, path string, p program) {
	before := openFds()
	t.Cleanup(func() {
		if n := openFds(); n != before && !t.Failed() {
			t.Errorf("%d descriptors before, %d after", before, n)
		}
	})
	m := newMachine(t, path, p.next())
	m.program = p
	m.tasks = append(m.tasks, m.newSession, m.startRings)
	if err := m.loop.Run(); err != nil {
		t.Fatal(err)
	}
	m.close()
}

func newMachine(t testing.TB, path string, kind byte) *machine {
	m := &machine{
		t: t, path: path, frontend: -1, cid: guestCID, configured: guestCID,
		conns: make(map[address]*conn), listeners: make(map[int]listening), buffer: make([]byte, 300<<10),
	}
	var err error
	if m.loop, err = eventloop.New(func() time.Duration { return m.now }); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	m.mux, err = muxer.New(muxer.Config{
		Loop: m.loop, Log: log, GuestCID: guestCID, UDSPath: path, MaxConnections: 32,
		MaxBuffered: 1 << 20, Packed: true, Stats: &m.stats,
		OwnSocket: func(string) bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.server = vhostuser.NewServer(vhostuser.Config{Loop: m.loop, Device: m.mux, OnSessionEnd: m.sessionEnded})
	if err := m.mux.Listen(m.listenFd(csm.TypeStream, path)); err != nil {
		t.Fatal(err)
	}
	if err := m.mux.ListenSeqpacket(m.listenFd(csm.TypeSeqpacket, path+"_seqpacket")); err != nil {
		t.Fatal(err)
	}
	m.loop.SetWorker(m)

	m.mem = virtqueuetest.NewMemory(t, memory)
	m.features = vhostuser.FeatureVersion1 | vhostuser.FeatureProtocolFeatures | 1
	m.options = virtqueuetest.Options{Size: 64}
	if kind&withSmallRing != 0 {
		m.options.Size = 4
	}
	if kind&withPacked != 0 {
		m.features |= vhostuser.FeatureRingPacked
		m.options.Packed = true
		m.options.Size--
	}
	if kind&withEventIdx != 0 {
		m.features |= vhostuser.FeatureEventIdx
		m.options.EventIdx = true
	}
	if kind&withIndirect != 0 {
		m.features |= vhostuser.FeatureIndirectDesc
		m.options.Indirect = true
	}
	if kind&withSeqpacket != 0 {
		m.features |= 1 << 1
	}
	m.rings = []*ring{m.newRing(nil), m.newRing(nil)}
	if kind&withEvents != 0 {
		m.rings = append(m.rings, m.newRing(nil))
		m.postEvents()
	}
	return m
}

func (m *machine) startRings() {
	for i := range m.rings {
		m.startRing(i)
	}
}

// sessionEnded is told by the server.
func (m *machine) sessionEnded(err error) {
	m.attached = false
	if err != nil && !m.wild {
		m.t.Errorf("session ended: %v", err)
	}
}

// Work lets the device work, and then goes on with the program.
func (m *machine) Work() (more bool) {
	m.server.Work()
	if m.turns > 0 {
		m.turns--
		return true
	}
	m.listenToBackend()
	m.takeSaved()
	if m.waits != nil && m.attached && !m.waits() && m.waited < turnsToStop {
		m.waited++
		return true
	}
	if m.waited == turnsToStop && !m.wild && len(m.transfers) == 0 {
		m.t.Fatal("the device does not answer")
	}
	m.waits, m.waited = nil, 0
	switch {
	case len(m.tasks) > 0:
		task := m.tasks[0]
		m.tasks = m.tasks[1:]
		task()
	case len(m.program) > 0:
		m.step()
	case !m.final:
		m.finish()
	default:
		m.loop.Stop()
	}
	return true
}

func (m *machine) Deadline() (at time.Duration, ok bool) { return m.server.Deadline() }

func (m *machine) Expire(now time.Duration) { m.server.Expire(now) }

// step does the next operation.
func (m *machine) step() {
	p := &m.program
	switch p.below(operations) {
	case opTurns:
		m.turns = p.below(16)
		m.tasks = append(m.tasks, m.look)
	case opRequest:
		m.request(p)
	case opSend:
		m.sendPayload(p)
	case opSay:
		m.say(p)
	case opBuffers:
		m.postBuffers(p)
	case opListen:
		m.listen(p)
	case opConnect:
		m.connect(p)
	case opWrite:
		m.hostWrite(p)
	case opRead:
		c := m.client(p)
		m.hostRead(c, 1+p.below(8))
	case opShut:
		m.shutHost(p)
	case opTime:
		m.passTime(p)
	case opStop:
		m.stopOrStart(p)
	case opNewDriver:
		m.newDriver(p.below(2) == 0)
	case opState:
		m.changeState(p)
	case opCID:
		m.configured = 3 + uint64(p.below(4))
		m.abandon()
		m.mux.SetGuestCID(m.configured)
		m.server.ConfigChanged()
	case opSession:
		m.abandon()
		m.tasks = append(m.tasks, m.endSession, func() { m.waits = func() bool { return !m.attached } }, m.nextSession)
	case opPacket:
		m.anyPacket(p)
	case opWord:
		m.anyWord(p)
	case opChain:
		m.anyChain(p)
	case opMessage:
		m.anyMessage(p)
	case opClient:
		m.anyBytes(p)
	case opShrink:
		m.goHostile()
		m.gone = true
		if err := m.mem.Shrink(0, int64(p.u16())<<8); err != nil {
			m.t.Fatal(err)
		}
	}
}

// look lets the guest and host programs see what has come.
func (m *machine) look() {
	if !m.hostile {
		m.reap()
		m.receive()
		m.receiveEvents()
	}
	m.accept()
}

// passTime puts the clock forward, past deadlines up to eleven seconds away.
func (m *machine) passTime(p *program) {
	m.now += []time.Duration{time.Millisecond, 100 * time.Millisecond, 2100 * time.Millisecond, 11 * time.Second}[p.below(4)]
}

// stopOrStart stops a ring, or starts it where it stopped.
func (m *machine) stopOrStart(p *program) {
	i := p.below(len(m.rings))
	if m.rings[i].running {
		m.stopRing(i)
	} else {
		m.startRing(i)
	}
}

// newDriver stops all rings and starts fresh ones.
func (m *machine) newDriver(reset bool) {
	for i := range m.rings {
		m.tasks = append(m.tasks, func() { m.stopRing(i) })
	}
	m.tasks = append(m.tasks, func() {
		if m.hostile || m.frontend < 0 {
			return
		}
		m.abandon()
		if reset {
			m.tell(vhostuser.MsgResetDevice, nil)
			m.tell(vhostuser.MsgSetFeatures, vhostusertest.U64(m.features))
		}
		m.tell(vhostuser.MsgGetConfig, vhostuser.ConfigSpace{Size: 8}.AppendTo(nil), make([]byte, 8)...)
		m.cid = m.configured
		for i, r := range m.rings {
			m.rings[i] = m.newRing(r)
		}
		m.postEvents()
		m.startRings()
	})
}

// nextSession lets the driver go on behind another frontend.
func (m *machine) nextSession() {
	if m.gone {
		return
	}
	for _, r := range m.rings {
		if !m.hostile && r.running {
			r.at = uint32(r.UsedIdx())
			if r.Config().Packed {
				m.wild = true // where it stopped is not known
			}
		}
		r.running = false
	}
	m.newSession()
	m.startRings()
}

// postEvents fills the event ring, if there is one.
func (m *machine) postEvents() {
	if len(m.rings) <= vhostusertest.EventIndex || m.hostile {
		return
	}
	r := m.rings[vhostusertest.EventIndex]
	for r.Free() > 0 {
		if _, ok := r.add(8, 1, true); !ok {
			break
		}
	}
	r.Kick()
}

// receiveEvents drops the guest's connections when it is told to.
func (m *machine) receiveEvents() {
	if len(m.rings) <= vhostusertest.EventIndex {
		return
	}
	came := false
	for {
		if _, _, ok := m.take(m.rings[vhostusertest.EventIndex]); !ok {
			break
		}
		came = true
	}
	if came {
		m.abandon()
		m.cid = m.configured
		m.postEvents()
	}
}

// abandon ends the checks of all connections: the guest drops them, or shall.
func (m *machine) abandon() {
	for _, c := range m.order {
		c.open, c.misused = false, true
		m.misuse(c)
	}
	clear(m.conns)
	m.anonymous = true
}

func (m *machine) goWild() { m.wild = true }

func (m *machine) goHostile() { m.wild, m.hostile = true, true }

// finish lets everything arrive that is on its way, stops the rings and ends the
// session.
func (m *machine) finish() {
	m.final = true
	if !m.wild && m.attached {
		m.startRings()
		m.tasks = append(m.tasks, func() { m.turns = 2 })
		for range 100 {
			m.tasks = append(m.tasks, m.drain)
		}
		m.tasks = append(m.tasks, m.checkArrived)
	}
	for i := range m.rings {
		m.tasks = append(m.tasks, func() { m.stopRing(i) })
	}
	m.tasks = append(m.tasks, m.endSession, func() { m.waits = func() bool { return !m.attached } },
		m.hostLeaves, m.passLongTime, m.passLongTime, m.checkNothingLeft)
}

// passLongTime makes every deadline come.
func (m *machine) passLongTime() {
	m.passTime(&program{3})
	m.turns = 2
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

// checkNothingLeft checks what a device holds that has no peers.
func (m *machine) checkNothingLeft() {
	left := map[string]int64{
		"bytes of memory": m.stats.Buffered.Load(), "of them begun": m.stats.BufferedBegun.Load(),
		"clients": m.stats.Clients.Load(), "dials": m.stats.Dials.Load(), "tails": m.stats.Tails.Load(),
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
}

// drain lets every end take what it has.
func (m *machine) drain() {
	if m.wild {
		return
	}
	m.look()
	for _, c := range m.order {
		if c.open && c.fwd != c.received && m.send(m.header(c, csm.OpCreditUpdate), 0, 1, nil) {
			c.fwd = c.received
		}
	}
	m.postBuffers(&program{7, 0xff, 0xff, 0})
	for _, c := range m.clients {
		m.hostRead(c, 8)
	}
}

// checkArrived checks that what was sent has arrived, where both ends are there.
func (m *machine) checkArrived() {
	if m.wild || !m.attached {
		return
	}
	for _, h := range m.clients {
		c := h.owner
		if h.misused || h.fd < 0 || c == nil || c.misused || !c.open {
			continue
		}
		want := c.sent
		if c.typ == csm.TypeSeqpacket && c.stream.open {
			want -= c.ends[len(c.ends)-1]
		}
		if h.received != want {
			m.t.Errorf("a host program got %d bytes of %d", h.received, want)
		}
	}
	for _, c := range m.order {
		if c.misused || !c.open || c.shut&csm.ShutdownRcv != 0 {
			continue
		}
		for _, h := range m.clients {
			if c.peer == &h.stream && h.fd >= 0 && !h.misused && c.received != h.sent {
				m.t.Errorf("the guest got %d bytes of %d", c.received, h.sent)
			}
		}
	}
}

// close ends the device.
func (m *machine) close() {
	if err := m.server.Close(); err != nil {
		m.t.Error("close server:", err)
	}
	if err := m.mux.Close(); err != nil {
		m.t.Error("close muxer:", err)
	}
	if err := m.loop.Close(); err != nil {
		m.t.Error("close loop:", err)
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
