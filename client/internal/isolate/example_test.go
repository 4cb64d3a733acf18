package isolate_test

import (
	"fmt"

	"rpc.do/client/internal/isolate"
)

func ExampleCopyAny() {
	type params struct {
		Names []string `json:"names"`
		trace int
	}
	sent := params{Names: []string{"ada"}, trace: 7}
	var received params
	fmt.Println(isolate.CopyAny(&received, &sent, 1<<20))
	received.Names[0] = "grace"
	fmt.Println(sent, received) // what JSON doesn't carry is lost
	// Output:
	// true
	// {[ada] 7} {[grace] 0}
}
