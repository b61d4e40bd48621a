package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// newCID is the address that guests are given while they run.
const newCID = 77

// cidFile holds the CID that a daemon gives its guest.
type cidFile string

func newCIDFile(t *testing.T) cidFile {
	t.Helper()
	f := cidFile(filepath.Join(t.TempDir(), "cid"))
	f.write(t, vm.GuestCID)
	return f
}

func (f cidFile) write(t *testing.T, cid int) {
	t.Helper()
	if err := os.WriteFile(string(f), fmt.Appendln(nil, cid), 0o600); err != nil {
		t.Fatal(err)
	}
}

// withCIDFile boots the machine on a daemon that reads the CID from a file.
func (m machine) withCIDFile(t *testing.T) (lab, cidFile) {
	t.Helper()
	f := newCIDFile(t)
	return m.on(t, vm.StartDaemon(t, slices.Concat(m.flags, []string{"--guest-cid", string(f)})...)), f
}

// change gives the guest another CID as an operator does.
func (l lab) change(t *testing.T, f cidFile, cid int) {
	t.Helper()
	f.write(t, cid)
	l.Reload()
}

// mustBecome waits until the guest believes that it has this CID.
func (l lab) mustBecome(t *testing.T, cid uint32) {
	t.Helper()
	vm.Eventually(t, limit, fmt.Sprint("the guest's CID is ", cid), func() bool {
		resp, err := l.Call(script.Request{Op: script.Hello}, 10*time.Second)
		return err == nil && resp.CID == cid
	})
}

// A guest that has an event ring is told at once: its connections end, its listeners
// stay.
func TestGuestCIDChangesByEvent(t *testing.T) {
	onEach(t, []machine{uml, umlPacked, umlInBand}, func(t *testing.T, m machine) {
		l, file := m.withCIDFile(t)
		echo := l.serve(t, script.Step{Do: script.Echo})
		for _, cid := range []int{newCID, newCID + 1, vm.GuestCID} {
			called := l.dial(t, echo)
			port, from := l.listen(t)
			wait := l.callLater(script.Request{Op: script.Dial, Port: port, Steps: takeBulk})
			dialled := accept(t, from)
			l.change(t, file, cid)
			mustEnd(t, called)
			mustEnd(t, dialled)
			wait() // its control connection ended, too
			l.mustBecome(t, uint32(cid))
			l.mustWork(t)
			l.messages().mustWork(t)
			h := script.Run(l.dial(t, echo), ask, nil)
			if h.Err() != nil || h.ReceivedSum != h.SentSum {
				t.Errorf("a listener of before: %v, %d bytes back", h.Err(), h.Received)
			}
		}
	})
}

// One without believes in its CID until its driver begins anew. Its frontend asks for
// the new one at once, its connections do not notice.
func TestGuestCIDChangesAtRebind(t *testing.T) {
	onEach(t, []machine{qemu, qemu10, qemu10Packed}, func(t *testing.T, m machine) {
		l, file := m.withCIDFile(t)
		port := l.serve(t, script.Step{Do: script.Echo})
		old := l.dial(t, port)
		messages := l.Scrape(t).Sum("vhost_user_vsock_messages_total")
		l.change(t, file, newCID)
		vm.Eventually(t, limit, "the frontend asks for the configuration", func() bool {
			return l.Scrape(t).Sum("vhost_user_vsock_messages_total") > messages
		})
		l.mustBecome(t, vm.GuestCID)
		l.mustShow(t, vm.GuestCID, newCID)
		l.mustWork(t)
		mustWrite(t, old, []byte("still there?"))
		mustReadJust(t, old, []byte("still there?"))

		if err := l.Send(script.Request{Op: script.Rebind}); err != nil {
			t.Fatal(err)
		}
		mustEnd(t, old)
		l.mustBecome(t, newCID)
		l.mustShow(t, newCID, 0)
		l.mustWork(t)
		l.messages().mustWork(t)
	})
}

// mustShow checks what the daemon tells of the CID in force and of one that waits.
func (l lab) mustShow(t *testing.T, active, pending uint32) {
	t.Helper()
	samples := l.Scrape(t)
	for state, want := range map[string]uint32{"active": active, "pending": pending} {
		if got := samples.Sum("vhost_user_vsock_guest_cid", `state="`+state+`"`); got != float64(want) {
			t.Errorf("the %s CID is %v, want %d", state, got, want)
		}
	}
}
