package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// traceOf returns the operations in a trace's file, in order, as the virtio headers say
// them. It must hold whole packets.
func traceOf(t *testing.T, path string) (ops []csm.Op) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || len(text) < 24 {
		t.Fatalf("%d bytes, error %v", len(text), err)
	}
	for text = text[24:]; len(text) > 0; {
		n := 16 + int(binary.LittleEndian.Uint32(text[8:]))
		if n > len(text) {
			t.Fatalf("%s ends within a packet", path)
		}
		ops = append(ops, csm.Op(binary.LittleEndian.Uint16(text[16+32+30:])))
		text = text[n:]
	}
	return ops
}

func expectTrace(t *testing.T, path string, want ...csm.Op) {
	t.Helper()
	got := traceOf(t, path)
	if len(got) != len(want) {
		t.Fatalf("%s holds %v, want %v", path, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s holds %v, want %v", path, got, want)
		}
	}
}

// awaitTrace waits until packets are in the file, while the program runs.
func awaitTrace(t *testing.T, path string, packets int) {
	t.Helper()
	waitFor(t, func() bool {
		text, err := os.ReadFile(path)
		return err == nil && bytes.Count(text, []byte{2, 0, 44, 0, 0, 0}) == packets // struct af_vsockmon_hdr from transport on
	})
}

// conversation is what goes through the rings where nothing is refused.
var conversation = []csm.Op{csm.OpRequest, csm.OpResponse, csm.OpRW}

// A reload has packets recorded, elsewhere, and no more, all while the guest runs.
func TestReloadTraces(t *testing.T) {
	p := startFiled(t, "runtime-dir: .\nvms:\n"+vmA)
	traced := func(path string) string {
		return "runtime-dir: .\nvms:\n" + strings.Replace(vmA, "}", ", trace-packets: "+path+"}", 1)
	}
	a := startGuestOf(t, "a", 3, 9)
	program := a.connect(t, listenAt(t, "ua_9"))
	a.mustCarry(t, program, []byte("unseen"))
	p.reload(t, traced("t1"))
	a.mustCarry(t, program, []byte("one"))
	awaitTrace(t, "t1", 1)
	p.reload(t, traced("t2"))
	expectTrace(t, "t1", csm.OpRW)
	a.mustCarry(t, program, []byte("two"))
	a.mustCarry(t, program, []byte("three"))
	p.reload(t, "runtime-dir: .\nvms:\n"+vmA)
	expectTrace(t, "t2", csm.OpRW, csm.OpRW)
	a.mustCarry(t, program, []byte("unseen"))
	p.expectMetrics(t, `trace_packets_total{result="recorded",vm="a"} 3`, `trace_packets_total{result="overload",vm="a"} 0`)
	p.stop(t, unix.SIGTERM)
	expectTrace(t, "t1", csm.OpRW)
	expectTrace(t, "t2", csm.OpRW, csm.OpRW)
}

// A VM that is added or begins anew has its trace; what was there before is kept.
func TestReloadTracesVMsThatBegin(t *testing.T) {
	tracedA := strings.Replace(vmA, "}", ", trace-packets: ta}", 1)
	tracedC := strings.Replace(vmC, "}", ", trace-packets: tc}", 1)
	p := startFiled(t, "vms:\n"+tracedA)
	frontend := startGuestOf(t, "a", 3, 9)
	frontend.connect(t, listenAt(t, "ua_9"))
	awaitTrace(t, "ta", 2)
	p.reload(t, "vms:\n"+strings.Replace(tracedA, "}", ", packed: true}", 1)+tracedC)
	p.expectMetrics(t, `vm_waiting_options{vm="a"} 1`)
	frontend.frontend.Close()
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `vm_waiting_options{vm="a"} 0`) })
	expectTrace(t, "ta")
	expectTrace(t, "ta.old", csm.OpRequest, csm.OpResponse)

	c := startGuestOf(t, "c", 5, 9)
	c.mustCarry(t, c.connect(t, listenAt(t, "uc_9")), []byte("new"))
	p.stop(t, unix.SIGTERM)
	expectTrace(t, "tc", append(conversation, csm.OpRST)...)
}

// A trace that cannot be made stops a VM from starting, but not one that runs.
func TestTraceThatCannotBeMade(t *testing.T) {
	inTempDir(t)
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, nil, "--socket", "s", "--uds-path", "u", "--trace-packets", "fifo")
	p.expectExit(t, exitError, testLimit)
	if log := p.stderr.String(); !strings.Contains(log, "--trace-packets: ") || !strings.Contains(log, "not a regular file") {
		t.Errorf("log: %s", log)
	}
	expectFiles(t, "fifo")

	writeConfig(t, "vms:\n"+strings.Replace(vmA, "}", ", trace-packets: ta}", 1))
	f := &filed{process: startProcess(t, nil, "--config", "config/f", "--metrics-addr", "127.0.0.1:0")}
	f.expectReady(t)
	log := f.reload(t, "vms:\n"+strings.Replace(vmA, "}", ", trace-packets: fifo}", 1))
	if !strings.Contains(log, "option stays as it is") || !strings.Contains(log, "not a regular file") {
		t.Errorf("log: %s", log)
	}
	a := startGuestOf(t, "a", 3, 9)
	a.mustCarry(t, a.connect(t, listenAt(t, "ua_9")), []byte("as before"))
	f.stop(t, unix.SIGTERM)
	expectTrace(t, "ta", append(conversation, csm.OpRST)...)
}

// The sandbox makes traces where the first ones were, and in each runtime-dir.
func TestReloadTracesOutsideTheSandbox(t *testing.T) {
	if landlockABI() == 0 {
		t.Skip("this kernel has no Landlock")
	}
	inTempDir(t)
	for _, dir := range []string{"sockets", "traces", "later"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	in := func(path string) string {
		return "runtime-dir: later\nvms:\n- {name: a, socket: sockets/s, uds-path: sockets/u, trace-packets: " + path + "}\n"
	}
	writeConfig(t, in("traces/t"))
	p := &filed{process: startProcess(t, nil, "--config", "config/f", "--metrics-addr", "127.0.0.1:0")}
	p.expectReady(t)
	for _, path := range []string{"traces/t2", "later/t"} {
		if log := p.reload(t, in(path)); !strings.Contains(log, "read again") {
			t.Errorf("log: %s", log)
		}
		expectTrace(t, path)
	}
	if log := p.reload(t, in("sockets/t")); !strings.Contains(log, "config/f:3: trace-packets") || !strings.Contains(log, "runtime-dir") {
		t.Errorf("log: %s", log)
	}
	expectGone(t, "sockets/t")
	p.stop(t, unix.SIGTERM)
}
