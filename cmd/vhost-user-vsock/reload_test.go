package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

func TestProcessReadsTheCIDAgain(t *testing.T) {
	path := filepath.Join(inTempDir(t), "cid")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangUp := func(p *process, seen string) {
		t.Helper()
		if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return strings.Contains(p.stderr.String(), seen) })
	}
	write("7")
	p := startDaemon(t, nil, "--guest-cid", path)
	frontend := vhostusertest.Dial(t, "s")
	frontend.SetProtocolFeatures(vhostuser.ProtocolConfig | vhostuser.ProtocolBackendReq)
	frontend.SetBackendReqFd()
	expectCID(t, frontend, 7)

	write("8")
	hangUp(p, "guest_cid=8")
	expectConfigChange(t, frontend)
	expectCID(t, frontend, 8)

	write("2")
	hangUp(p, "stays as it is")
	expectCID(t, frontend, 8)
	p.stop(t, unix.SIGTERM)
}

// expectCID reads the config space as QEMU does.
func expectCID(t *testing.T, frontend *vhostusertest.Frontend, want uint64) {
	t.Helper()
	if got := binary.LittleEndian.Uint64(frontend.GetConfig(0, 8, 0)); got != want {
		t.Errorf("guest_cid %d, want %d", got, want)
	}
}

// expectConfigChange waits for VHOST_USER_BACKEND_CONFIG_CHANGE_MSG.
func expectConfigChange(t *testing.T, frontend *vhostusertest.Frontend) {
	t.Helper()
	limit := unix.NsecToTimeval(testLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(frontend.Channel(), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 13) // one byte more than the message has
	n, err := unix.Read(frontend.Channel(), got)
	want := []byte{
		2, 0, 0, 0, // request
		1, 0, 0, 0, // flags: version 1, no reply wanted
		0, 0, 0, 0, // payload size
	}
	if err != nil || !bytes.Equal(got[:max(n, 0)], want) {
		t.Fatalf("read % x, error %v", got[:max(n, 0)], err)
	}
}

func TestProcessOutlivesAHangUp(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, nil)
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	expectAnswer(t, dial(t, "s"))
	p.stop(t, unix.SIGTERM)
}
