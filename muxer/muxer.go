package muxer

import (
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/killq"
	"github.com/vhost-user-vsock/vhost-user-vsock/ratelog"
	"github.com/vhost-user-vsock/vhost-user-vsock/rxq"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

const (
	// connectLineTimeout is how long a host program may take for its CONNECT
	// line, and how long a complete one may wait for a driver without WaitForGuest.
	connectLineTimeout = 2 * time.Second
	// requestTimeout is how long a guest may take to answer a REQUEST; it is
	// Linux's own limit for the other direction.
	requestTimeout = 2 * time.Second
	// shutdownTimeout is how long a guest may take to answer a full SHUTDOWN
	// with RST; it is Linux's own limit.
	shutdownTimeout = 8 * time.Second

	// window is the buffer space in bytes that a connection offers its guest.
	// Linux guests use no more by default, and four packets of 64 KiB keep a
	// pipeline full.
	window = 256 << 10
	// smallWindow is what new connections offer while memory is short.
	smallWindow = 64 << 10

	// replyLimit is how many RSTs may wait before the tx ring does: a guest that
	// posts no receive buffers must not make us remember ever more of them
	// (virtio v1.4 §5.10.6.1).
	replyLimit = 256
	// maxRing is the largest tx ring; one that stops is served to its end, though
	// every entry may need an RST.
	maxRing = 1 << 15
	// readyLimit bounds the queue of connections with something for the guest.
	readyLimit = 1024
	// timerLimit bounds each queue of deadlines.
	timerLimit = 1024
)

// Refusals is how many host programs beyond the connection limit are heard out,
// so that they see end of file behind their CONNECT line.
const Refusals = 64

// OKPort chooses the number in the "OK <port>\n" that a host program reads.
type OKPort uint8

const (
	OKShort OKPort = iota // our port, at most five digits
	OKHost                // our port, from 2^30 on
	OKGuest               // the guest's port
)

// Config is what a Muxer needs to know.
type Config struct {
	Loop           *eventloop.Loop
	Log            logrus.FieldLogger
	GuestCID       uint64
	UDSPath        string
	MaxConnections int   // host sockets and connections of this guest
	MaxBuffered    int64 // bytes of memory for payload that host sockets do not take
	OKPort         OKPort
	WaitForGuest   time.Duration // how long a CONNECT may wait for the guest to accept it; 0: it has one chance
	Packed         bool          // offer packed rings
	// OwnSocket reports whether the file at path is a listening socket of this
	// process. A guest may not reach those: one would lead it to another guest.
	OwnSocket func(path string) bool
	Stats     *Stats
}

// timed is what waits in a queue of deadlines; see timers.go.
type timed interface {
	expireHost(now time.Duration)
	expireGuest(now time.Duration)
}

// sites are the places whose log lines a guest or a host program can provoke.
type sites struct{ accept, dial, denied, host, guest, cid, state ratelog.Site }

// Muxer serves one guest. Its methods are called on the goroutine of its loop.
type Muxer struct {
	cfg            Config
	maxConnections int // the most that cfg.MaxConnections can become
	loop           *eventloop.Loop
	log            logrus.FieldLogger
	stats          *Stats

	// The driver's side. Both rings run, or the guest's clock stands still.
	rx, tx    *virtqueue.Queue
	events    eventRing
	attached  bool
	met       bool // its rings ran since Attach or Reset
	features  uint64
	noStreams bool // the driver acknowledged NO_IMPLIED_STREAM without STREAM
	seqpacket bool // it acknowledged SEQPACKET
	clock     guestClock

	table   map[key]*conn      // connections the guest knows or is about to
	sockets map[*conn]struct{} // everything that counts against the limit
	waiting []*conn            // host programs that wait for a driver, oldest first
	dials   map[string]*dialQueue
	calls   map[portName]*portQueue
	lost    losses
	cid     guestCID
	ports   portSequence

	ready       *rxq.Queue[rxItem]
	hostTimers  *killq.Queue[timed] // by the loop's clock
	guestTimers *killq.Queue[timed] // by the guest's clock

	streams    listener // of host programs that connect for bytes
	seqpackets listener // and of those that connect for messages

	turn uint32 // of the loop; counts calls of Work

	txWaits   bool // no kick tells of what is in the tx ring
	txStall   stall
	txFaulted bool // guest memory went away in the middle of serveTx
	txHold    moderation
	rxGather  gathering
	rxLeft    int // packets that this turn of the rx ring may still send
	rxUnfit   int // unfit receive buffers that may still be given back this turn

	// For how long rings have waited; see stall.go.
	rxWait, replyWait, bufferWait span
	inTurn                        int // connections that have something for the guest

	batch  txBatch
	txBufs guestmem.Buffers
	rxBufs guestmem.Buffers
	rxHead guestmem.Buffers
	rxTake []rxSlot
	pool   csm.Pool
	wide   int // host sockets that were widened
	wire   [csm.HeaderSize]byte
	hdr    csm.Header
	trace  *trace.Recorder // nil: packets are not recorded
	line   [maxConnectLine]byte
	waste  []byte // where bytes go that nobody wants

	ending  bool   // Shutdown was called: no connection begins any more
	unsaid  bool   // and nobody was told yet
	closing func() // set by Shutdown, called once when nothing is left

	draining bool   // Drain was called
	drained  func() // called once when no connection is left

	sites sites
}

// New returns a Muxer without listener or guest.
func New(cfg Config) (*Muxer, error) {
	if cfg.MaxConnections < 1 {
		return nil, fmt.Errorf("connection limit %d: must be at least 1", cfg.MaxConnections)
	}
	m := &Muxer{
		cfg:            cfg,
		maxConnections: cfg.MaxConnections,
		loop:           cfg.Loop,
		log:            cfg.Log,
		stats:          cfg.Stats,
		table:          make(map[key]*conn),
		sockets:        make(map[*conn]struct{}),
		dials:          make(map[string]*dialQueue),
		calls:          make(map[portName]*portQueue),
		ports:          newPortSequence(cfg.OKPort),
		ready:          rxq.New[rxItem](cfg.MaxConnections+replyLimit+maxRing, readyLimit),
		hostTimers:     killq.New[timed](timerLimit),
		guestTimers:    killq.New[timed](timerLimit),
		rxTake:         make([]rxSlot, 0, rxBatchChains),
		waste:          make([]byte, 64<<10),
	}
	m.clock.stop(0)
	m.lost = losses{m: m, conns: make(map[key]csm.Type)}
	m.cid.configured, m.cid.active = cfg.GuestCID, cfg.GuestCID
	m.showCID()
	m.streams = listener{m: m, typ: csm.TypeStream, fd: -1, batch: 1}
	m.seqpackets = listener{m: m, typ: csm.TypeSeqpacket, fd: -1, batch: 1}
	return m, nil
}

// Work moves bytes between the rings and the host sockets, a bounded amount, and
// reports whether more could be moved at once.
func (m *Muxer) Work() (more bool) {
	m.turn++
	if m.unsaid {
		m.endAll()
	}
	if m.running() {
		more = m.serveEvents()
		if m.txWaits {
			more = m.serveTx(false) || more
		}
		more = m.serveRx() || more
		more = m.resetLost() || more
		m.interruptTx()
		m.interruptRx(more)
		// Replies that left may have made room for the tx ring.
		more = more || m.txWaits && m.txStall != stallNone && m.txStallNow() == stallNone
	}
	m.stats.Buffered.Set(m.pool.Held())
	m.stats.BufferedBegun.Set(m.pool.Begun())
	m.stats.RxQueueDepth.Set(int64(m.ready.Len()))
	m.stats.KillQueueDepth.Set(int64(m.hostTimers.Len() + m.guestTimers.Len()))
	m.finishDrain()
	m.finishShutdown()
	return more
}

// pressed reports whether memory for host sockets runs short: then connections
// with unread bytes get no new credit, and new ones a smaller window.
func (m *Muxer) pressed() bool { return m.pool.Held() > m.cfg.MaxBuffered/2 }

// window returns the buffer space in bytes that a new connection offers. Where
// it carries messages the guest can send none that is longer.
func (m *Muxer) window(typ csm.Type) uint32 {
	if m.pressed() && typ == csm.TypeStream {
		return smallWindow
	}
	return window
}

// Shutdown ends every connection: the guest gets RST, host programs get the
// bytes that are theirs and then end of file. done is called once nothing is
// left; the caller bounds the wait.
func (m *Muxer) Shutdown(done func()) {
	m.ending, m.unsaid, m.closing = true, true, done
	m.streams.close()
	m.seqpackets.close()
}

// endAll is the work of Shutdown. What the driver has published so far is still
// delivered, though it may not have kicked for it yet.
func (m *Muxer) endAll() {
	if m.tx != nil {
		m.serveTx(true) // where memory faults the session ends, and this is run again
	}
	m.unsaid = false
	for c := range m.sockets {
		switch c.stage {
		case stageLine, stageWaiting:
			m.refuse(c, HandshakeNoGuest)
		case stageDialing, stageOpen:
			m.kill(c, ResetShutdown)
		}
	}
}

func (m *Muxer) finishShutdown() {
	if m.closing == nil || len(m.sockets) > 0 {
		return
	}
	if m.running() && m.ready.Resets() > 0 && m.rx.Broken() == nil {
		return // the guest adds buffers as it takes them
	}
	done := m.closing
	m.closing = nil
	done()
}

// Close closes every socket at once, bytes or not. The rings must have stopped.
func (m *Muxer) Close() error {
	m.streams.close()
	m.seqpackets.close()
	for c := range m.sockets {
		m.closeSocket(c)
	}
	clear(m.table)
	return nil
}
