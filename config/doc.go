// Package config is what the program is asked to do: the command line and the
// configuration file, checked as far as that needs no side effect.
//
// There is one table of options. Flags, the keys of --vm, those of the file,
// the help text, the manual and the completions all come from it.
package config
