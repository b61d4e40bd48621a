package device

import (
	"errors"
	"io"
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

// memory is the guest's RAM. Its rings are in the first part.
var memory = []virtqueuetest.Extent{{GuestAddr: 1 << 20, Size: 4 << 20}, {GuestAddr: 5 << 20, Size: 4 << 20}}

// A device may take so many turns to answer. One whose frontend breaks rules may
// answer to nothing.
const (
	turnsToAnswer     = 200
	turnsToAnswerWild = 8
)

// machine is a device with all its peers. It is the worker of the loop: after a
// turn of the device it does what the program has next.
type machine struct {
	t       testing.TB
	now     time.Duration // by the loop's clock
	served  time.Duration // when the device last worked
	loop    *eventloop.Loop
	server  *vhostuser.Server
	mux     *muxer.Muxer
	stats   muxer.Stats
	hosts   *hosts
	program program
	turns   int         // of the device before the program goes on
	tasks   []func()    // to do before the program goes on
	waits   func() bool // nil, or what has to come true before the next task
	waited  int
	moved   int // things that came to a peer: if none does, all is quiet
	rounds  int // at the end
	quiet   int // of them, the last ones without anything new
	asked   bool
	idle    int  // turns in a row in which the device had nothing to do
	rested  bool // it has rested since

	// The frontend.
	frontend, channel int // our ends, -1 if there is none
	attached          bool
	protocol          vhostuser.ProtocolFeatures
	features          uint64
	acks, inBand      bool
	due               []vhostuser.Request // replies
	replies, requests []byte              // beginnings of messages of the backend
	log               *vhostusertest.DirtyLog
	logging           *vhostusertest.DirtyLog // the same, once the device is known to write to it
	saved             []byte                  // the device's state
	saving            bool
	transfers         []int // our ends

	// The guest.
	mem        *virtqueuetest.Memory
	options    virtqueuetest.Options
	rings      []*ring
	drivers    int    // that followed the first
	cid        uint64 // as the driver has read it
	configured uint64
	conns      map[address]*conn
	order      []*conn // all that were

	// Host programs.
	listeners map[int]listening
	clients   []*client
	buffer    []byte
	seeds     int

	baseline held // by this process, while no peer is there

	// What the peers did that ends checks.
	expired   int  // how often deadlines of connections may have come
	anonymous bool // bytes may come that are no stream's
	wild      bool // messages, rings or memory are not what is thought here
	hostile   bool // rings or memory
	gone      bool // memory
	final     bool // the program is over
}

// held is what a process holds.
type held struct {
	fds    int
	memory int // mappings
	logs   int // likewise
}

// play runs a program, and checks that nothing is left of it.
func play(t testing.TB, h *hosts, p program) {
	m := newMachine(t, h, p.u16())
	m.program = p
	m.tasks = append(m.tasks, m.newSession, m.startRings)
	if err := m.loop.Run(); err != nil {
		t.Fatal(err)
	}
}

func newMachine(t testing.TB, h *hosts, kind int) *machine {
	m := &machine{
		t: t, hosts: h, frontend: -1, channel: -1, cid: guestCID, configured: guestCID,
		conns: make(map[address]*conn), listeners: make(map[int]listening), buffer: h.buffer,
	}
	m.negotiate(kind)
	m.newDevice()
	m.mem = virtqueuetest.NewMemory(t, memory...)
	m.rings = []*ring{m.newRing(0, nil), m.newRing(1, nil)}
	if kind&withEvents != 0 {
		m.rings = append(m.rings, m.newRing(2, nil))
		m.postEvents()
	}
	m.baseline = held{openFds(), mappings("guest"), mappings("log")}
	t.Cleanup(m.close)
	return m
}

// negotiate chooses features.
func (m *machine) negotiate(kind int) {
	m.features = vhostuser.FeatureVersion1 | vhostuser.FeatureProtocolFeatures | 1
	m.protocol = vhostuser.ProtocolConfig | vhostuser.ProtocolResetDevice | vhostuser.ProtocolDeviceState | vhostuser.ProtocolLogShmfd
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
		m.features |= 1 << 1 // VIRTIO_VSOCK_F_SEQPACKET
	}
	if kind&withAcks != 0 {
		m.protocol |= vhostuser.ProtocolReplyAck
	}
	if kind&withChannel != 0 {
		m.protocol |= vhostuser.ProtocolBackendReq
	}
	if kind&withInBand != 0 {
		m.protocol |= vhostuser.ProtocolInBandNotifications | vhostuser.ProtocolBackendReq | vhostuser.ProtocolReplyAck
		m.inBand = true
	}
	if kind&withSlots != 0 {
		m.protocol |= vhostuser.ProtocolConfigureMemSlots
	}
}

func (m *machine) newDevice() {
	var err error
	if m.loop, err = eventloop.New(func() time.Duration { return m.now }); err != nil {
		m.t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	m.mux, err = muxer.New(muxer.Config{
		Loop: m.loop, Log: log, GuestCID: guestCID, UDSPath: m.hosts.path, MaxConnections: 32,
		MaxBuffered: 1 << 20, Packed: true, Stats: &m.stats,
		OwnSocket: func(string) bool { return false },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.mux.Listen(m.hosts.listener(m.t, csm.TypeStream)); err != nil {
		m.t.Fatal(err)
	}
	if err := m.mux.ListenSeqpacket(m.hosts.listener(m.t, csm.TypeSeqpacket)); err != nil {
		m.t.Fatal(err)
	}
	m.server = vhostuser.NewServer(vhostuser.Config{
		Loop: m.loop, Device: m.mux, InBand: true, OnSessionEnd: m.sessionEnded,
	})
	m.loop.SetWorker(m)
}

// sessionEnded is told by the server.
func (m *machine) sessionEnded(err error) {
	m.attached = false
	left := m.frontend < 0 && len(m.due) > 0 && errors.Is(err, unix.EPIPE) // before it had its replies
	if err != nil && !left && !m.wild {
		m.t.Errorf("session ended: %v", err)
	}
}

// Look is never called: this loop does not poll.
func (m *machine) Look() (more bool) { panic("a loop that does not poll looks") }

// Rest is never called either: there is more until the program has ended.
func (m *machine) Rest() (more bool) { panic("a loop that has more to do rests") }

// restless is how many turns without work the device has to stay awake for: a loop that
// finds events does not let it rest, and what is held meanwhile may not get lost.
const restless = 3

// Work lets the device work, and rest now and then. Then it goes on with the program.
func (m *machine) Work() (more bool) {
	if m.server.Work() {
		m.idle = 0
	} else {
		m.idle++
	}
	if m.rested = m.idle > restless; m.rested {
		m.server.Rest()
		m.idle = 0
	}
	m.noteUsed()
	if m.turns > 0 {
		m.turns--
		return true
	}
	m.listenToBackend()
	m.takeSaved()
	if m.mustWait() {
		return true
	}
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

// mustWait reports whether something has to come true before the next task.
func (m *machine) mustWait() bool {
	limit := turnsToAnswer
	if m.wild {
		limit = turnsToAnswerWild
	}
	if m.waits != nil && m.attached && !m.waits() {
		if m.waited++; m.waited < limit {
			return true
		}
		if !m.wild && len(m.transfers) == 0 {
			m.t.Fatalf("the device does not answer: due are %v", m.due)
		}
	}
	m.waits, m.waited = nil, 0
	return false
}

func (m *machine) Deadline() (at time.Duration, ok bool) { return m.server.Deadline() }

func (m *machine) Expire(now time.Duration) { m.server.Expire(now) }

// step does the next operation, and those that follow at once.
func (m *machine) step() {
	for more := true; more; {
		op := m.program.next()
		m.operate(int(op&^atOnce)%operations, &m.program)
		more = op&atOnce != 0 && len(m.tasks) == 0 && m.turns == 0 && m.waits == nil
	}
}

func (m *machine) operate(op int, p *program) {
	switch op {
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
	case opEnable:
		m.enable(p)
	case opNotifier:
		m.passNotifier(p)
	case opMemory:
		m.passMemoryAgain(p)
	case opLog:
		m.changeLog(p)
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
		m.tasks = append(m.tasks, m.endSession, m.awaitEnd, m.nextSession)
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
		if err := m.mem.Shrink(p.below(len(memory)), int64(p.u16())<<7); err != nil {
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
	d := []time.Duration{time.Millisecond, 100 * time.Millisecond, 2100 * time.Millisecond, 11 * time.Second}[p.below(4)]
	if d > time.Second {
		m.expired++
	}
	m.now += d
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

// leave ends the guest's part in all connections. What it has sent arrives, if the
// device has got it.
func (m *machine) leave() {
	if tx := m.rings[vhostusertest.TxIndex]; m.wild || tx.UsedIdx() != tx.AvailIdx() {
		m.abandon()
		return
	}
	for _, c := range m.order {
		c.left = c.left || c.open
		c.open = false
	}
	clear(m.conns)
	m.anonymous = true
}

func (m *machine) goWild() { m.wild = true }

func (m *machine) goHostile() { m.wild, m.hostile = true, true }

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
