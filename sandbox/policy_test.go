package sandbox_test

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// The filter is made where it is loaded: a name that one of the machines does
// not know would come out on a user's.
func TestEveryCallHasANumberOnEveryMachine(t *testing.T) {
	for _, machine := range []struct{ goarch, name string }{{"amd64", "x86_64"}, {"arm64", "aarch64"}} {
		info, err := arch.GetInfo(machine.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range allowed(t, machine.goarch) {
			if _, ok := info.SyscallNames[name]; !ok {
				t.Errorf("%s: no %s", machine.goarch, name)
			}
		}
	}
}

// allowed returns the names in the tables for a machine.
func allowed(t *testing.T, goarch string) []string {
	t.Helper()
	names := slices.Concat(sandbox.Calls, sandbox.MachineCalls[goarch])
	for _, c := range sandbox.Conditions(1) {
		if slices.Contains(names, c.Name) {
			t.Errorf("%s is in two tables", c.Name)
		}
		names = append(names, c.Name)
	}
	return names
}

// filters are the assembled policies.
type filters []*bpf.VM

func assemble(t *testing.T, pid uint64) (all filters) {
	t.Helper()
	for _, policy := range sandbox.Policies(pid) {
		program, err := policy.Assemble()
		if err != nil {
			t.Fatal(err)
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, vm)
	}
	return all
}

// verdict is what the kernel makes of a call by a filter that lets nothing but
// "allow" pass: struct seccomp_data goes in, in the order that the VM reads.
func (all filters) verdict(t *testing.T, machine arch.AuditArch, number uint32, args [6]uint64) seccomp.Action {
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, uint32(machine))
	data = binary.BigEndian.AppendUint64(data, 0) // instruction pointer
	for _, arg := range args {
		data = binary.BigEndian.AppendUint32(data, uint32(arg)) // little-endian machines
		data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
	}
	for _, vm := range all {
		action, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		if uint32(action) != unix.SECCOMP_RET_ALLOW {
			return seccomp.Action(uint32(action))
		}
	}
	return seccomp.ActionAllow
}

// TestPoliciesAllowWhatTheTablesSay asks about every call with any argument
// that could be taken for a call's number, or for one that is allowed.
func TestPoliciesAllowWhatTheTablesSay(t *testing.T) {
	const (
		pid       = 4321
		someCalls = 600 // more than there are
		eperm     = seccomp.ActionErrno | seccomp.Action(unix.EPERM)
		enosys    = seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)
	)
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	all := assemble(t, pid)
	names := allowed(t, runtime.GOARCH)

	few := []uint64{pid, pid + 1, unix.SIOCINQ, unix.SIOCOUTQ, unix.CLONE_THREAD, unix.CLONE_VM, unix.PR_SET_VMA, unix.TIOCSTI}
	for _, value := range slices.Clone(few) {
		few = append(few, value|1<<32)
	}
	many := slices.Clone(few)
	for number := range uint64(someCalls) {
		many = append(many, number)
	}
	conditional := make(map[string]bool)
	for _, c := range sandbox.Conditions(pid) {
		conditional[c.Name] = true
	}
	expect := func(number uint32, position int, value uint64, got, want seccomp.Action) {
		if got != want {
			t.Fatalf("call %d (%s) with argument %d = %#x: %#x, want %#x",
				number, info.SyscallNumbers[int(number)], position, value, uint32(got), uint32(want))
		}
	}
	for number := range uint32(someCalls) {
		name := info.SyscallNumbers[int(number)]
		values := few
		if conditional[name] {
			values = many
		}
		for position := range 3 {
			for _, value := range values {
				var args [6]uint64
				args[position] = value
				want := eperm
				if passes(name, args, pid) && slices.Contains(names, name) {
					want = seccomp.ActionAllow
				}
				if name == "clone3" {
					want = enosys
				}
				expect(number, position, value, all.verdict(t, info.ID, number, args), want)
			}
		}
	}
	// Through another machine's gate, where numbers mean other calls.
	for number := range uint32(someCalls) {
		for _, machine := range []*arch.Info{arch.I386, arch.ARM} {
			expect(number, 0, 0, all.verdict(t, machine.ID, number, [6]uint64{}), eperm)
		}
	}
}

// passes says once more, in Go, what the conditions are.
func passes(name string, args [6]uint64, pid uint64) bool {
	switch name {
	case "socket":
		return args[0] == unix.AF_UNIX
	case "ioctl":
		return args[1] == unix.SIOCINQ || args[1] == unix.SIOCOUTQ
	case "mmap", "mprotect":
		return args[2]&unix.PROT_EXEC == 0
	case "clone":
		return args[0]&unix.CLONE_THREAD != 0
	case "tgkill":
		return args[0] == pid
	case "prctl":
		return args[0] == unix.PR_SET_VMA
	}
	return true
}
