package muxer_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// traced is a trace of a vm.
type traced struct {
	stats trace.Stats
	path  string
}

// record has the vm's packets recorded until the test's end, or done is called.
func (v *vm) record() (_ *traced, done func()) {
	v.t.Helper()
	tr := &traced{path: filepath.Join(v.t.TempDir(), "trace")}
	log := logrus.New()
	log.SetOutput(io.Discard)
	r, err := trace.Open(trace.Config{Path: tr.path, Limit: 1 << 30, Now: time.Now, Log: log, Stats: &tr.stats})
	if err != nil {
		v.t.Fatal(err)
	}
	v.do(func() { v.m.SetTrace(r) })
	return tr, func() {
		v.t.Helper()
		v.do(func() { v.m.SetTrace(nil) })
		if err := r.Close(); err != nil {
			v.t.Error(err)
		}
	}
}

// Nothing is allocated for a trace either.
func TestTracedDataPathAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	b := newBulk(t, csm.MaxPayload)
	tr, done := b.record()
	move := func() { b.toHost(3); b.toGuest(5000) }
	for range 20 {
		move()
	}
	if n := testing.AllocsPerRun(100, move); n != 0 {
		t.Errorf("%v allocations", n)
	}
	done()
	if n := tr.stats.Packets[trace.Recorded].Load(); n < 121*(3+2) {
		t.Errorf("%d packets are recorded", n)
	}
}

// A chain that is malformed as such holds no packet; what comes behind it does.
func TestMalformedChainsAreNotTraced(t *testing.T) {
	v := newVM(t, options{})
	tr, done := v.record()
	writable := v.mem.In(100) // in the tx ring, all is to be read
	v.tx.Add(writable)
	v.tx.Add(virtqueuetest.Segment{Addr: 1, Len: 100}) // nowhere in the guest's memory
	v.driver.Send(v.driver.Header(1, 2, csm.OpCreditRequest), []byte("\x00with bytes that mean nothing"))
	v.driver.Expect(csm.OpRST)
	done()
	text, err := os.ReadFile(tr.path)
	if err != nil {
		t.Fatal(err)
	}
	if n := tr.stats.Packets[trace.Recorded].Load(); n != 2 || len(text) != 24+2*92 {
		t.Errorf("%d packets are recorded in %d bytes: % x", n, len(text), text)
	}
	if bytes.Contains(text, []byte("nothing")) {
		t.Error("the trace has a payload that the packet has not")
	}
}
