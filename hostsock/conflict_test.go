package hostsock_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

func TestCheckConflicts(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	symlink(t, "a", filepath.Join(root, "linkA"))
	symlink(t, filepath.Join(root, "linkA"), filepath.Join(root, "linkLinkA"))
	t.Chdir(filepath.Join(root, "a"))

	for _, test := range []struct {
		name   string
		uds    []string // below root, unless they begin with a dot
		others []string
		want   error
	}{
		{"nothing", nil, nil, nil},
		{"one VM", []string{"a/vm"}, []string{"a/ctl"}, nil},
		{"two VMs in one directory", []string{"a/vm", "a/vm2"}, []string{"a/ctl", "a/ctl2"}, nil},
		{"names that only look alike", []string{"a/vm"}, []string{"a/vm_", "a/vm_x", "a/vm_1x", "a/vm_-1", "a/vm_+1", "a/vm1", "a/vm_1_", "a/vm_1_x", "a/_1", "a/vm_seqpackets", "a/vm_SEQPACKET"}, nil},
		{"same name in another directory", []string{"a/vm"}, []string{"b/vm", "b/vm_1"}, nil},
		{"port of a path that is no VM's", []string{"a/vm"}, []string{"a/ctl", "a/ctl_1"}, nil},
		{"nested ports", []string{"a/vm"}, []string{"a/vm_1_2"}, nil},

		{"control socket at a port", []string{"a/vm"}, []string{"a/vm_1024"}, hostsock.ErrConflict},
		{"control socket at port 0", []string{"a/vm"}, []string{"a/vm_0"}, hostsock.ErrConflict},
		{"control socket at the last port", []string{"a/vm"}, []string{"a/vm_4294967295"}, hostsock.ErrConflict},
		{"more digits than a port has", []string{"a/vm"}, []string{"a/vm_00099999999999"}, hostsock.ErrConflict},
		{"control socket at the seqpacket name", []string{"a/vm"}, []string{"a/vm_seqpacket"}, hostsock.ErrConflict},
		{"VM at a port of another", []string{"a/vm", "a/vm_5"}, nil, hostsock.ErrConflict},
		{"VM at a port of a later one", []string{"a/vm_5", "a/vm"}, nil, hostsock.ErrConflict},
		{"VM at the seqpacket name of another", []string{"a/vm_seqpacket", "a/vm"}, nil, hostsock.ErrConflict},
		{"port of a VM whose name has a port", []string{"a/vm_1"}, []string{"a/vm_1_2"}, hostsock.ErrConflict},

		{"through a linked directory", []string{"a/vm"}, []string{"linkA/vm_1"}, hostsock.ErrConflict},
		{"VM in a linked directory", []string{"linkLinkA/vm"}, []string{"a/vm_1"}, hostsock.ErrConflict},
		{"through links on both sides", []string{"linkA/vm"}, []string{"linkLinkA/vm_1"}, hostsock.ErrConflict},
		{"through dots", []string{"a/vm"}, []string{"b/../a/./vm_1"}, hostsock.ErrConflict},
		{"relative to absolute", []string{"a/vm"}, []string{"./vm_1"}, hostsock.ErrConflict},
		{"linked directory elsewhere", []string{"b/vm"}, []string{"linkA/vm_1"}, nil},

		{"one path for two uses", []string{"a/vm"}, []string{"a/vm"}, hostsock.ErrConflict},
		{"one path for two VMs", []string{"a/vm", "linkA/vm"}, nil, hostsock.ErrConflict},
		{"one path for two control sockets", []string{"a/vm"}, []string{"b/c", "b//c"}, hostsock.ErrConflict},

		{"no directory", []string{"none/vm"}, nil, unix.ENOENT},
		{"no directory of another", []string{"a/vm"}, []string{"none/ctl"}, unix.ENOENT},
	} {
		t.Run(test.name, func(t *testing.T) {
			below := func(paths []string) (all []string) {
				for _, p := range paths {
					if p[0] != '.' {
						p = root + "/" + p // not Join, which would clean it
					}
					all = append(all, p)
				}
				return all
			}
			if err := hostsock.CheckConflicts(below(test.uds), below(test.others)); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}
