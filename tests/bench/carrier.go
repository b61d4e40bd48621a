package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// carrier is what bytes are sent through: a backend, in one direction, or a socket.
type carrier interface {
	// start has programs send without end.
	start()
	// moved returns what has arrived and what that has cost, since some time.
	moved() load
	// stop ends what start began and returns when all that was sent has arrived.
	stop(tb testing.TB)
}

// load is what was carried, and its price.
type load struct {
	bytes      uint64
	packets    uint64
	interrupts uint64
	processor  time.Duration // of the backend, or of the bare programs
	driver     time.Duration // the same of the guest's driver
}

func (l load) minus(m load) load {
	return load{
		bytes: l.bytes - m.bytes, packets: l.packets - m.packets, interrupts: l.interrupts - m.interrupts,
		processor: l.processor - m.processor, driver: l.driver - m.driver,
	}
}

// warmUp is how much of a measurement passes before it counts.
const warmUp = 5 // one in

// carry has c carry bytes for a while and returns the figures.
func carry(tb testing.TB, c carrier, stretch time.Duration) round {
	tb.Helper()
	c.start()
	time.Sleep(stretch / warmUp)
	begin, before := time.Now(), c.moved()
	var l load
	vm.Eventually(tb, stretch+patience, "anything has arrived", func() bool {
		time.Sleep(stretch)
		l = c.moved().minus(before)
		return l.bytes > 0
	})
	took := time.Since(begin)
	c.stop(tb)
	r := round{
		throughput:     float64(l.bytes) / took.Seconds(),
		processorPrice: l.processor.Seconds() * gib / float64(l.bytes),
	}
	if l.driver > 0 {
		r[driverPrice] = l.driver.Seconds() * gib / float64(l.bytes)
		r[callsPerPacket] = float64(l.interrupts) / float64(max(l.packets, 1))
	}
	return r
}

// toHost carries from the guest of a machine to programs of the host.
type toHost struct {
	m       *machine
	conns   []*conn
	readers []*program
}

func newToHost(tb testing.TB, m *machine, f flow, check bool) carrier {
	tb.Helper()
	c := &toHost{m: m}
	conns, socks := m.dial(tb, f.n)
	c.conns = conns
	for _, fds := range share(socks) {
		c.readers = append(c.readers, startReader(tb, fds, check))
	}
	m.driver.do(func() { m.driver.senders, m.driver.chunk, m.driver.check = conns, f.chunk, check })
	return c
}

func (c *toHost) start() { c.m.driver.do(func() { c.m.driver.sending = true }) }

func (c *toHost) moved() load {
	l := c.m.load()
	l.bytes = total(c.readers)
	return l
}

func (c *toHost) stop(tb testing.TB) {
	tb.Helper()
	var sent uint64
	c.m.driver.do(func() {
		c.m.driver.sending = false
		for _, conn := range c.conns {
			sent += conn.sent
		}
	})
	arrived(tb, sent, func() uint64 { return total(c.readers) })
	mustHaveRead(tb, c.readers)
	c.m.mustBeGood(tb)
}

// toGuest carries from programs of the host to the guest of a machine.
type toGuest struct {
	m       *machine
	conns   []*conn
	writers []*program
}

func newToGuest(tb testing.TB, m *machine, f flow, check bool) carrier {
	tb.Helper()
	c := &toGuest{m: m}
	conns, socks := m.dial(tb, f.n)
	c.conns = conns
	m.driver.do(func() { m.driver.check = check })
	for _, fds := range share(socks) {
		c.writers = append(c.writers, newWriter(tb, fds, f.chunk, check))
	}
	return c
}

func (c *toGuest) start() { resume(c.writers) }

func (c *toGuest) moved() load {
	l := c.m.load()
	l.bytes = c.received()
	return l
}

func (c *toGuest) received() (bytes uint64) {
	c.m.driver.do(func() {
		for _, conn := range c.conns {
			bytes += conn.received
		}
	})
	return bytes
}

func (c *toGuest) stop(tb testing.TB) {
	tb.Helper()
	pause(c.writers)
	arrived(tb, total(c.writers), c.received)
	c.m.mustBeGood(tb)
}

// load returns the machine's own costs.
func (m *machine) load() load {
	l := load{processor: m.processor()}
	m.driver.do(func() {
		l.packets, l.interrupts = m.driver.counts.packets, m.driver.counts.interrupts
		l.driver = clock(unix.CLOCK_THREAD_CPUTIME_ID)
	})
	return l
}

// arrived waits until as many bytes have arrived as were sent.
func arrived(tb testing.TB, sent uint64, received func() uint64) {
	tb.Helper()
	vm.Eventually(tb, patience, "all that was sent has arrived", func() bool { return received() == sent })
}
