package tests

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// What a real driver sends and gets is in the trace, packet for packet and byte for byte
// as the metrics count it, and tshark finds it well.
func TestGuestTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.pcap")
	traced := uml
	traced.flags = []string{"--trace-packets", path}
	var counted vm.Samples
	t.Run("the VM", func(t *testing.T) {
		l := newLab(t, traced)
		l.mustWork(t)
		l.messages().mustWork(t)
		noneLeft(t, l)
		counted = l.Scrape(t)
	})
	if t.Failed() {
		return
	}
	packets, bytes := make(map[string]int), make(map[string]int)
	for _, s := range dissect(t, path) {
		direction := "tx"
		if s.header.DstCID == vm.GuestCID {
			direction = "rx"
		}
		packets[fmt.Sprintf("%s %d", direction, s.header.Op)]++
		bytes[direction] += s.size
	}
	for _, direction := range []string{"rx", "tx"} {
		label := fmt.Sprintf("direction=%q", direction)
		for op, name := range []string{"invalid", "request", "response", "rst", "shutdown", "rw", "credit_update", "credit_request"} {
			want := int(counted.Sum("vhost_user_vsock_packets_total", label, fmt.Sprintf("op=%q", name)))
			if got := packets[fmt.Sprintf("%s %d", direction, op)]; got != want {
				t.Errorf("%s: %d packets %s, %d were counted", direction, got, name, want)
			}
		}
		if want := int(counted.Sum("vhost_user_vsock_payload_bytes_total", label)); bytes[direction] != want || want < mib {
			t.Errorf("%s: %d bytes of payload, %d were counted", direction, bytes[direction], want)
		}
	}
}
