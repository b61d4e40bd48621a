package vhostuser_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// timeout bounds every wait of these tests.
const timeout = 10 * time.Second

const rx, tx, event = vhostusertest.RxIndex, vhostusertest.TxIndex, vhostusertest.EventIndex

func TestMain(m *testing.M) {
	startPoller()
	fds, goroutines := openFds(), runtime.NumGoroutine()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // workers of the fuzzing engine come and go
	}
	if code == 0 && (openFds() != fds || goroutinesLeft(goroutines) > goroutines || len(mappings())+len(logMappings()) > 0) {
		println("descriptors, goroutines or mappings are left over")
		code = 1
	}
	os.Exit(code)
}

// goroutinesLeft returns the number of goroutines once they are not more than
// want: one that has said its last word needs a moment to be gone.
func goroutinesLeft(want int) int {
	for end := time.Now().Add(timeout); runtime.NumGoroutine() > want && time.Now().Before(end); {
		runtime.Gosched()
	}
	return runtime.NumGoroutine()
}

// startPoller makes the runtime open the descriptors of its own poller, which it
// does when it first needs one.
func startPoller() {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
}

func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// mappings returns the guest memories that are mapped, by the device or by a
// test's own guest.
func mappings() []string { return mapped("memfd:guest") }

// logMappings returns the dirty logs that are, likewise.
func logMappings() []string { return mapped("memfd:log") }

// mapped returns the mappings of a file.
func mapped(name string) []string {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	var found []string
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, name) {
			found = append(found, line)
		}
	}
	return found
}

// offered is what the device under test offers: it needs no more than rings do.
const offered = vhostuser.FeatureVersion1 | vhostuser.FeatureEventIdx | vhostuser.FeatureIndirectDesc

// device records what the server asks of it. It takes what comes on the tx ring
// and sends what it is given on the rx ring.
type device struct {
	mu       sync.Mutex
	log      []string
	received []string // tx chains
	kicks    map[int]int

	// What follows is the loop's alone.
	queues   [3]*virtqueue.Queue
	attached bool
	bufs     guestmem.Buffers
	fault    func()        // runs in Kick
	rest     func() bool   // nil: there is nothing to do
	look     func() bool   // as well
	offers   uint64        // Features
	cid      byte          // the config space
	state    []byte        // what is saved, and was loaded
	deadline time.Duration // 0: none
	expired  []time.Duration
}

func (d *device) record(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf(format, args...))
}

// events returns what was recorded since the last call.
func (d *device) events() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	log := d.log
	d.log = nil
	return log
}

// taken returns the tx chains since the last call.
func (d *device) taken() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	received := d.received
	d.received = nil
	return received
}

func (d *device) kicked(index int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kicks[index]
}

func (d *device) Features() uint64 { return d.offers }

func (d *device) Config(p []byte) { clear(p); copy(p, []byte{d.cid, 0, 0, 0, 0, 0, 0, 0}) }

func (d *device) Attach() {
	if d.attached {
		panic("attached twice")
	}
	d.attached = true
	d.record("attach")
}

func (d *device) Negotiated(features uint64) {
	d.quiet("negotiated")
	d.record("negotiated")
	if features&^d.offers != 0 {
		d.record("negotiated what was not offered: 0x%x", features)
	}
}

func (d *device) StartQueue(index int, q *virtqueue.Queue) {
	if d.queues[index] != nil {
		panic("queue started twice")
	}
	d.queues[index] = q
	d.record("start %d", index)
	d.serve(index)
}

func (d *device) Kick(index int) {
	if d.queues[index] == nil {
		panic("kick for a queue that does not run")
	}
	d.mu.Lock()
	d.kicks[index]++
	d.mu.Unlock()
	if d.fault != nil {
		d.fault()
	}
	d.serve(index)
}

// serve takes everything that is on the tx ring.
func (d *device) serve(index int) {
	q := d.queues[index]
	if index != tx {
		return
	}
	for again := true; again; again = q.ArmKick() {
		for {
			d.bufs.Reset()
			c, ok := q.Pop(&d.bufs)
			if !ok {
				break
			}
			p := make([]byte, c.ReadBytes)
			d.bufs.CopyOut(c.From, c.Split, p)
			d.mu.Lock()
			d.received = append(d.received, string(p))
			d.mu.Unlock()
			q.Push(c.Head, 0)
		}
		q.NotifyIfNeeded()
		if q.Broken() != nil {
			return
		}
	}
}

// send puts p into the next buffer of the rx ring and reports whether there was one.
func (d *device) send(p string) bool {
	q := d.queues[rx]
	if q == nil {
		return false
	}
	d.bufs.Reset()
	c, ok := q.Pop(&d.bufs)
	if !ok {
		return false
	}
	q.Push(c.Head, uint32(d.bufs.CopyIn(c.Split, c.To, []byte(p))))
	q.NotifyIfNeeded()
	return true
}

func (d *device) StopQueue(index int) {
	if d.queues[index] == nil {
		panic("queue stopped that does not run")
	}
	d.serve(index)
	d.queues[index].Empty() // the last look at any ring
	d.queues[index] = nil
	d.record("stop %d", index)
}

func (d *device) Inherit() { d.record("inherit") }
func (d *device) Reset()   { d.record("reset") }

func (d *device) Detach() {
	d.attached = false
	d.queues = [3]*virtqueue.Queue{} // a fault may have cut StopQueue short
	d.record("detach")
}

func (d *device) SaveState() []byte {
	d.quiet("saved")
	d.record("save")
	return d.state
}

// errGarbage is the device's verdict on a state that begins with a zero.
var errGarbage = errors.New("garbage")

func (d *device) LoadState(p []byte) error {
	d.quiet("loaded")
	if len(p) > 0 && p[0] == 0 {
		return errGarbage
	}
	d.record("load")
	d.state = bytes.Clone(p)
	return nil
}

// quiet checks that nothing runs.
func (d *device) quiet(what string) {
	for _, q := range d.queues {
		if q != nil {
			panic(what + " with a running queue")
		}
	}
}

func (d *device) Work() bool                      { return false }
func (d *device) Rest() bool                      { return d.rest != nil && d.rest() }
func (d *device) Look() bool                      { return d.look != nil && d.look() }
func (d *device) Deadline() (time.Duration, bool) { return d.deadline, d.deadline > 0 }

func (d *device) Expire(now time.Duration) {
	d.expired = append(d.expired, now)
	d.deadline = 0
}

// backend is a server on a loop of its own.
type backend struct {
	*device
	t      testing.TB
	loop   *eventloop.Loop
	server *vhostuser.Server
	stats  *vhostuser.Stats
	logs   *logs
	path   string
	ended  chan error // one for each session that ended
}

// logs keeps what is logged, as "level: message (fields)".
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) Levels() []logrus.Level { return logrus.AllLevels }

func (l *logs) Fire(e *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("%v: %s %v", e.Level, e.Message, e.Data))
	return nil
}

// take returns the lines since the last call.
func (l *logs) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

// newBackend returns a backend that listens at its path until the test ends.
func newBackend(t testing.TB, options ...func(*vhostuser.Config)) *backend {
	t.Helper()
	b := prepareBackend(t, options...)
	b.listen()
	b.run()
	return b
}

// inBand offers INBAND_NOTIFICATIONS.
func inBand(c *vhostuser.Config) { c.InBand = true }

// packed has the device offer packed rings.
func packed(c *vhostuser.Config) { c.Device.(*device).offers |= vhostuser.FeatureRingPacked }

// prepareBackend returns a backend whose loop does not run yet.
func prepareBackend(t testing.TB, options ...func(*vhostuser.Config)) *backend {
	t.Helper()
	loop, err := eventloop.New(eventloop.Monotonic())
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{
		device: &device{kicks: make(map[int]int), offers: offered, cid: 3},
		t:      t,
		loop:   loop,
		stats:  new(vhostuser.Stats),
		logs:   new(logs),
		ended:  make(chan error, 10_000),
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.AddHook(b.logs)
	cfg := vhostuser.Config{
		Loop:         loop,
		Device:       b.device,
		Log:          log,
		Stats:        b.stats,
		OnSessionEnd: func(err error) { b.ended <- err },
	}
	for _, option := range options {
		option(&cfg)
	}
	b.server = vhostuser.NewServer(cfg)
	loop.SetWorker(b.server)
	return b
}

func (b *backend) listen() {
	b.t.Helper()
	dir, err := os.MkdirTemp("", "vu") // a short name: it must fit a socket address
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { os.RemoveAll(dir) })
	b.path = filepath.Join(dir, "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: b.path}); err != nil {
		b.t.Fatal(err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		b.t.Fatal(err)
	}
	if err := b.server.Listen(fd); err != nil {
		b.t.Fatal(err)
	}
}

// run runs the loop until the test ends.
func (b *backend) run() {
	b.t.Helper()
	done := make(chan error, 1)
	go func() { done <- b.loop.Run() }()
	b.t.Cleanup(func() {
		b.loop.Stop()
		select {
		case err := <-done:
			if err != nil {
				b.t.Error("run:", err)
			}
		case <-time.After(timeout):
			panic("the loop does not stop")
		}
		if err := b.server.Close(); err != nil {
			b.t.Error("close the server:", err)
		}
		if err := b.loop.Close(); err != nil {
			b.t.Error("close the loop:", err)
		}
	})
}

// do runs f on the loop and waits for it.
func (b *backend) do(f func()) {
	b.t.Helper()
	done := make(chan struct{})
	b.loop.Do(func() { defer close(done); f() })
	select {
	case <-done:
	case <-time.After(timeout):
		b.t.Fatal("the loop does not answer")
	}
}

// waitEnd waits for the end of a session and returns its error.
func (b *backend) waitEnd() error {
	b.t.Helper()
	select {
	case err := <-b.ended:
		return err
	case <-time.After(timeout):
		b.t.Fatal("the session does not end")
		return nil
	}
}

// waitFor waits until the loop has made cond true.
func (b *backend) waitFor(what string, cond func() bool) {
	b.t.Helper()
	for end := time.Now().Add(timeout); time.Now().Before(end); {
		held := false
		b.do(func() { held = cond() })
		if held {
			return
		}
		runtime.Gosched()
	}
	b.t.Fatal("never came true:", what)
}

func (b *backend) dial() *vhostusertest.Frontend {
	b.t.Helper()
	return vhostusertest.Dial(b.t, b.path)
}

// negotiated returns a frontend that has taken every feature there is.
func (b *backend) negotiated() *vhostusertest.Frontend {
	b.t.Helper()
	f := b.dial()
	features := f.GetFeatures()
	f.SetProtocolFeatures(f.GetProtocolFeatures())
	f.SetFeatures(features)
	f.Barrier()
	return f
}

// expect fails unless the device saw exactly these events since the last time.
func (b *backend) expect(want ...string) {
	b.t.Helper()
	if got := b.events(); !slices.Equal(got, want) {
		b.t.Fatalf("the device saw\n\t%s\nwant\n\t%s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

// script parses events that are separated by commas.
func script(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ", ")
}
