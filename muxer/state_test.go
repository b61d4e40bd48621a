package muxer_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// goldenState is a state with one connection, a field a line.
var goldenState = []byte{
	'v', 'u', '-', 'v', 's', 'o', 'c', 'k', // magic
	1, 0, 0, 0, // version
	50, 0, 0, 0, // length
	5, 0, 0, 0, 0, 0, 0, 0, // guest_cid
	1, 0, 0, 0, 1, 0, 0, 0, // features: VERSION_1, STREAM
	1, 0, 0, 0, // connections
	0xd2, 4, 0, 0, // guest port 1234
	0, 4, 0, 0, // host port 1024
	1, 0, // type
	0, 0, 0, 0, // checksum, by seal
}

// seal returns a copy with the right checksum.
func seal(p []byte) []byte {
	p = bytes.Clone(p)
	end := len(p) - 4
	binary.LittleEndian.PutUint32(p[end:], crc32.Checksum(p[:end], crc32.MakeTable(crc32.Castagnoli)))
	return p
}

// saved is what a state says.
type saved struct {
	cid   uint64
	conns map[ports]csm.Type
}

// save pauses the guest and returns the device's state, raw and read.
func (v *vm) save() ([]byte, saved) {
	v.t.Helper()
	var p []byte
	v.do(func() { v.stopAll(); p = v.m.SaveState() })
	s := saved{conns: make(map[ports]csm.Type)}
	s.cid = binary.LittleEndian.Uint64(p[16:])
	for c := p[36 : len(p)-4]; len(c) > 0; c = c[10:] {
		k := ports{binary.LittleEndian.Uint32(c), binary.LittleEndian.Uint32(c[4:])}
		s.conns[k] = csm.Type(binary.LittleEndian.Uint16(c[8:]))
	}
	return p, s
}

// newProcess replaces the muxer by that of another process, which has a session
// and was given the state. The guest is where it was.
func (v *vm) newProcess(o options, state []byte) {
	v.t.Helper()
	v.do(func() {
		v.m.Detach()
		v.m.Close()
		os.Remove(v.path)
		os.Remove(v.path + "_seqpacket")
		for _, r := range v.rings() {
			v.loop.Remove(r.KickFd())
		}
		v.stats = new(muxer.Stats)
		v.makeMuxer(o)
		if err := v.m.LoadState(state); err != nil {
			v.t.Error(err)
		}
	})
}

func TestGoldenState(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true})
	want := seal(goldenState)
	v.do(func() {
		v.m.Negotiated(1<<32 | 1)
		if err := v.m.LoadState(want); err != nil {
			t.Error(err)
		}
		if got := v.m.SaveState(); !bytes.Equal(got, want) {
			t.Errorf("state\n%x, want\n%x", got, want)
		}
	})
}

// What cannot be a state is refused, says why, and changes nothing.
func TestMalformedStates(t *testing.T) {
	t.Parallel()
	change := func(at int, b ...byte) []byte {
		p := bytes.Clone(goldenState)
		copy(p[at:], b)
		return seal(p)
	}
	golden := seal(goldenState)
	twice := slices.Concat(golden[:46], golden[36:])
	twice[12], twice[32] = 60, 2
	long := make([]byte, 1<<20+1)
	copy(long, golden)
	binary.LittleEndian.PutUint32(long[12:], uint32(len(long)))
	for name, c := range map[string]struct {
		state []byte
		says  string
	}{
		"empty":            {nil, "too few"},
		"header only":      {golden[:39], "too few"},
		"cut off":          {golden[:49], "49 bytes of 50"},
		"more behind":      {append(golden[:50:50], 0), "51 bytes of 50"},
		"too long":         {seal(long), "more than"},
		"another device's": {change(0, 'V'), "not one of this device"},
		"version 0":        {change(8, 0), "version 0"},
		"version 2":        {change(8, 2), "version 2"},
		"a bit flipped":    {slices.Concat(golden[:40], []byte{golden[40] ^ 1}, golden[41:]), "checksum"},
		"host's CID":       {change(16, 2), "reserved"},
		"any CID":          {change(16, 0xff, 0xff, 0xff, 0xff), "reserved"},
		"CID of 33 bits":   {change(20, 1), "reserved"},
		"count too high":   {change(32, 2), "2 connections in 10 bytes"},
		"count too low":    {change(32, 0), "0 connections in 10 bytes"},
		"count overflows":  {change(32, 1, 0, 0, 0x80), "connections in 10 bytes"},
		"twice the same":   {seal(twice), "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{})
			v.open(v.listen(52), 1000, 52)
			v.pause()
			v.do(func() {
				before := v.m.SaveState()
				err := v.m.LoadState(c.state)
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want %q in it", err, c.says)
				}
				if !bytes.Equal(v.m.SaveState(), before) || v.connections() != 1 {
					t.Error("something has changed")
				}
			})
		})
	}
}

// A state is of what the driver believes in, and saving it ends nothing.
func TestSaveStateEndsNothing(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	d.PostBuffers(2)
	s := v.open(p, 1000, 52)
	asked := v.client("CONNECT 53\n")
	q := d.Expect(csm.OpRequest)
	d.Send(d.Header(1001, 77, csm.OpRequest), nil) // refused, but there is no buffer
	d.Send(d.Header(1002, 77, csm.OpRequest), nil)
	v.client("CONNECT 54\n") // nor for this
	v.eventually("a REQUEST waits", func() bool { return v.stats.Connections[muxer.PhaseConnecting][muxer.HostInitiated].Load() == 2 })
	v.count("refused", &v.stats.Resets[muxer.ResetRefused], 2)
	_, got := v.save()
	want := map[ports]csm.Type{{1000, 52}: 1, {53, q.SrcPort}: 1, {1001, 77}: 1, {1002, 77}: 1}
	if got.cid != 3 || !maps.Equal(got.conns, want) {
		t.Errorf("saved %v, want %v", got, want)
	}
	v.resume()
	d.PostBuffers(8)
	d.ExpectFor(1001, 77, csm.OpRST)
	d.ExpectFor(1002, 77, csm.OpRST)
	d.Expect(csm.OpRequest)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("alive"))
	s.want([]byte("alive"))
	d.Send(d.Header(53, q.SrcPort, csm.OpResponse), nil)
	asked.wantOK()
}

// A thousand connections that were saved are a thousand RSTs in another process,
// or one TRANSPORT_RESET where there is an event ring.
func TestThousandSavedConnections(t *testing.T) {
	t.Parallel()
	for name, events := range map[string]bool{"two rings": false, "three rings": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 1000
			v := newVM(t, options{events: events})
			p := v.listen(52)
			for port := range uint32(n) {
				v.open(p, 1000+port, 52)
			}
			state, got := v.save()
			if len(got.conns) != n {
				t.Fatalf("%d connections saved", len(got.conns))
			}
			v.newProcess(options{}, state)
			v.do(v.startAll)
			if events {
				v.driver.ExpectReset()
				v.driver.PostEvents(1)
			} else {
				v.wantResets(n)
			}
			if got := v.driver.Barrier(); len(got) != 0 {
				t.Errorf("%d packets more, the first %v", len(got), got[0])
			}
			v.open(p, 1000, 52)
		})
	}
}

// A state is saved again, before and after the driver was told.
func TestStateOfALoadedState(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{paused: true})
	v.do(func() {
		if err := v.m.LoadState(seal(goldenState)); err != nil {
			t.Error(err)
		}
	})
	want := map[ports]csm.Type{{1234, 1024}: 1}
	if _, got := v.save(); got.cid != 5 || !maps.Equal(got.conns, want) {
		t.Errorf("saved %v", got)
	}
	v.do(func() { v.startAll() })
	v.count("RST", &v.stats.Resets[muxer.ResetLost], 1)
	v.eventually("sent", func() bool { return v.stats.RxPackets[csm.OpRST].Load() == 1 })
	if _, got := v.save(); got.cid != 5 || len(got.conns) != 0 {
		t.Errorf("saved %v", got)
	}
	v.do(v.m.Reset)
	if _, got := v.save(); got.cid != 3 {
		t.Errorf("saved CID %d of a driver that is no more", got.cid)
	}
}

// The configured CID wins over the saved one as soon as the driver can be told.
func TestConfiguredCIDWinsOverTheSavedOne(t *testing.T) {
	t.Parallel()
	for name, events := range map[string]bool{"two rings": false, "three rings": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{events: events, driver: muxertest.Options{CID: 5}, Config: muxer.Config{GuestCID: 5}})
			state, _ := v.save()
			v.newProcess(options{Config: muxer.Config{GuestCID: 6}}, state)
			v.do(v.startAll)
			if events {
				v.driver.ExpectReset()
				v.wantCID(6, 6, 0)
				v.speaksAs(6)
				return
			}
			v.wantCID(6, 5, 6)
			v.speaksAs(5)
		})
	}
}

// A port that the guest still believes in is not given to another connection. The
// guest has no buffer for the event by which it would be told.
func TestLostPortsAreAvoided(t *testing.T) {
	t.Parallel()
	v := eventVM(t, options{})
	v.endSession()
	v.cid.Store(5) // the driver is one that goes by the state's CID
	v.do(func() {
		v.m.Attach()
		if err := v.m.LoadState(seal(goldenState)); err != nil {
			t.Error(err)
		}
		v.startAll()
	})
	v.client("CONNECT 1234\n")
	if q := v.driver.Expect(csm.OpRequest); q.DstPort != 1234 || q.SrcPort == 1024 {
		t.Errorf("REQUEST from port %d to port %d", q.SrcPort, q.DstPort)
	}
}

// Any bytes are refused or are a state that is saved as it was.
func FuzzLoadState(f *testing.F) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	loop, err := eventloop.New(eventloop.Monotonic())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { loop.Close() })
	m, err := muxer.New(muxer.Config{Loop: loop, Log: log, GuestCID: 3, MaxConnections: 1, Stats: new(muxer.Stats)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seal(goldenState), true)
	f.Add(seal(goldenState[:40]), false)
	f.Fuzz(func(t *testing.T, p []byte, sealed bool) {
		if sealed && len(p) >= 40 {
			binary.LittleEndian.PutUint32(p[12:], uint32(len(p)))
			p = seal(p)
		}
		if m.LoadState(p) != nil {
			return
		}
		again := m.SaveState()
		if len(again) != len(p) || !bytes.Equal(again[16:24], p[16:24]) {
			t.Errorf("loaded %x, saved %x", p, again)
		}
		if err := m.LoadState(again); err != nil {
			t.Errorf("saved %x: %v", again, err)
		}
	})
}
