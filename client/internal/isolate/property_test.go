package isolate

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"rpc.do"
)

var seed = flag.Uint64("seed", 0, "seed of the property tests; 0 picks one")

func newRand(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed=%d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// Whatever is copied is what a round trip gives and fits the limit: random
// values of random types, half of them with a limit about the size of the JSON.
func TestCopyIsRoundTrip(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	types, values, copied := 3000, 10, 0
	for range types {
		typ := randomStruct(r, 3)
		for range values {
			src := randomValue(r, typ)
			limit := int64(math.MaxInt64)
			if data, err := json.Marshal(src.Interface()); err == nil && r.IntN(2) == 0 {
				limit = r.Int64N(2*int64(len(data)) + 1)
			}
			if checkCopy(t, src, limit) {
				copied++
			}
			if t.Failed() {
				t.Fatalf("the type is %v", typ)
			}
		}
	}
	// A property that is seldom put to the test shows nothing.
	t.Logf("%d of %d values copied", copied, types*values)
	if copied < types*values/10 {
		t.Errorf("only %d of %d values copied", copied, types*values)
	}
}

// A copy can be changed all over, and the source stays as it was.
func TestCopyIsApart(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	for range 3000 {
		src := randomValue(r, randomStruct(r, 3))
		dst := reflect.New(src.Type().Elem())
		if !CopyAny(dst.Interface(), src.Interface(), math.MaxInt64) {
			continue
		}
		before := mustEncode(t, src.Interface())
		overwrite(dst.Elem())
		if after := mustEncode(t, src.Interface()); string(before) != string(after) {
			t.Fatalf("%v: changing the copy changed the source\nfrom %s\nto   %s", src.Type(), before, after)
		}
	}
}

// Types that a random type is made of: the frequent ones first, then those that
// make a copy impossible, or nearly.
var (
	usualTypes = []reflect.Type{
		reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[uint64](),
		reflect.TypeFor[byte](), reflect.TypeFor[float32](), reflect.TypeFor[float64](), reflect.TypeFor[string](),
		reflect.TypeFor[word](), reflect.TypeFor[rpc.None](), reflect.TypeFor[struct{}](), reflect.TypeFor[order](),
	}
	oddTypes = []reflect.Type{
		reflect.TypeFor[any](), reflect.TypeFor[time.Time](), reflect.TypeFor[json.Number](), reflect.TypeFor[encodes](),
		reflect.TypeFor[decodes](), reflect.TypeFor[texts](), reflect.TypeFor[zeroed](), reflect.TypeFor[recursive](),
		reflect.TypeFor[list](), reflect.TypeFor[choosy](), reflect.TypeFor[pointerNull](),
	}
	usualTags = []string{"", `json:"NAME"`, `json:",omitempty"`, `json:"NAME,omitempty"`, `json:",omitzero"`, `json:",omitempty,omitzero"`, `json:"-"`}
	oddTags   = []string{`json:",string"`, `json:"a b"`, `json:"q\"q"`, `json:"a"`, `json:"A"`, `json:",other"`, `json:"<"`}
)

// randomStruct returns a struct type: encoding/json does the most for these.
func randomStruct(r *rand.Rand, depth int) reflect.Type {
	var fields []reflect.StructField
	for i := range r.IntN(6) {
		f := reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: randomType(r, depth)}
		tags := usualTags
		if r.IntN(30) == 0 {
			tags = oddTags
		}
		f.Tag = reflect.StructTag(tags[r.IntN(len(tags))])
		f.Tag = reflect.StructTag(strings.Replace(string(f.Tag), "NAME", fmt.Sprintf("name-%d", i), 1))
		if r.IntN(10) == 0 {
			f.Name, f.PkgPath = fmt.Sprintf("f%d", i), "rpc.do/client/internal/isolate"
		}
		fields = append(fields, f)
	}
	return reflect.StructOf(fields)
}

func randomType(r *rand.Rand, depth int) reflect.Type {
	if depth > 0 {
		switch r.IntN(8) {
		case 0:
			return reflect.PointerTo(randomType(r, depth-1))
		case 1:
			return reflect.SliceOf(randomType(r, depth-1))
		case 2:
			return reflect.ArrayOf(r.IntN(3), randomType(r, depth-1))
		case 3:
			return reflect.MapOf(reflect.TypeFor[word](), randomType(r, depth-1))
		case 4:
			return randomStruct(r, depth-1)
		}
	}
	types := usualTypes
	if r.IntN(60) == 0 {
		types = oddTypes
	}
	return types[r.IntN(len(types))]
}

// randomValue returns a pointer to a value of type t, with zero and nil and
// other extremes more often than chance would have them.
func randomValue(r *rand.Rand, t reflect.Type) reflect.Value {
	p := reflect.New(t)
	fill(r, p.Elem())
	return p
}

var sampleTexts = []string{"a", "word", "Grüße", "\u2028", "\uFFFD", "<&>", "\"\\\n\x00", "🎉", "a longer text, all plain", "\x7f"}

func fill(r *rand.Rand, v reflect.Value) {
	if !v.CanSet() || r.IntN(6) == 0 {
		return // an unexported field, or let it be zero
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Uint64() >> r.IntN(64)))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.Uint64() >> r.IntN(64))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(randomFloat(r))
	case reflect.String:
		v.SetString(randomText(r))
	case reflect.Pointer:
		v.Set(randomValue(r, v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(4), 5))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(4) {
			v.SetMapIndex(randomValue(r, v.Type().Key()).Elem(), randomValue(r, v.Type().Elem()).Elem())
		}
	case reflect.Struct:
		for _, f := range v.Fields() {
			fill(r, f)
		}
	}
}

func randomFloat(r *rand.Rand) float64 {
	switch r.IntN(40) {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1 - 2*r.IntN(2))
	case 2, 3, 4, 5:
		return math.Copysign(0, -1)
	case 6, 7, 8, 9:
		return float64(r.IntN(100))
	}
	f := math.Float64frombits(r.Uint64())
	if f-f != 0 {
		return 0
	}
	return f
}

func randomText(r *rand.Rand) string {
	if r.IntN(100) == 0 {
		return "broken\xff"
	}
	var s string
	for range r.IntN(5) {
		s += sampleTexts[r.IntN(len(sampleTexts))]
	}
	return s
}

// overwrite changes everything that can be changed through v.
func overwrite(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			overwrite(v.Elem())
		}
	case reflect.Slice:
		full := v.Slice(0, v.Cap())
		for i := range full.Len() {
			overwrite(full.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			overwrite(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(k))
			overwrite(elem)
			v.SetMapIndex(k, elem)
		}
		if !v.IsNil() {
			v.SetMapIndex(reflect.ValueOf("added").Convert(v.Type().Key()), reflect.Zero(v.Type().Elem()))
		}
	case reflect.Struct:
		for f, field := range v.Fields() {
			if f.IsExported() {
				overwrite(field)
			}
		}
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.String:
		v.SetString(v.String() + "!")
	case reflect.Float32, reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(^v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(^v.Uint())
	}
}
