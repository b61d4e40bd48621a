package vhostuser_test

import (
	"runtime"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// A thousand sessions, ended in every way, leave nothing behind.
func TestThousandSessions(t *testing.T) {
	b := newBackend(t)
	session := func(i int) {
		// Frontends and rings end with their test, so each has one of its own.
		t.Run("", func(t *testing.T) {
			f := vhostusertest.Dial(t, b.path)
			own := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
			peer := vhostusertest.Peers[i%len(vhostusertest.Peers)].New(f, own)
			peer.Init()
			peer.Start()
			switch i % 7 {
			case 0:
				peer.Shutdown()
			case 1:
				f.Close()
			case 2:
				f.Write([]byte{1, 2, 3}, own.Tx().KickFd(), own.Tx().CallFd())
				f.Close()
			case 3:
				f.Tell(vhostuser.Request(4711), []byte("with descriptors"), own.Fds()[0], own.Tx().KickFd())
				f.WaitClosed()
			case 4:
				f.SetProtocolFeatures(f.GetProtocolFeatures())
				f.SetLogBase(vhostusertest.NewDirtyLog(t, 1024, 0))
				f.Close()
			case 5:
				f.SetProtocolFeatures(f.GetProtocolFeatures())
				peer.Stop()
				f.SetDeviceStateFd(load, stopped, own.Tx().KickFd()) // never ends
				f.Close()
			case 6:
				f.Write(vhostusertest.Message(vhostuser.MsgSetMemTable, 0, make([]byte, 8+64))[:30], own.Fds()[0])
				f.Close()
			}
			b.waitEnd()
		})
	}
	session(0)
	fds, maps, goroutines := openFds(), len(mappings()), runtime.NumGoroutine()
	for i := range 1000 {
		session(i)
	}
	if n := openFds(); n != fds {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
	if n := len(mappings()); n != maps {
		t.Errorf("%d mappings before, %d after", maps, n)
	}
	if n := goroutinesLeft(goroutines); n > goroutines {
		t.Errorf("%d goroutines before, %d after", goroutines, n)
	}
}
