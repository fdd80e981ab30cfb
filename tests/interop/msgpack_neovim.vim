" Unmodified Neovim against two nodes: MessagePack-RPC over TCP. Run as
"   nvim --clean --headless -S msgpack_neovim.vim HOST:PORT HOST:PORT

function s:same(what, got, expected) abort
  if type(a:got) != type(a:expected) || a:got !=# a:expected
    throw 'FAILED  ' .. a:what .. ': ' .. string(a:got) .. ' is not ' .. string(a:expected)
  endif
  echo 'ok      ' .. a:what .. "\n"
endfunction

" Returns the error's text. Neovim shows only errors of two parts, type and message, in full; the node's have three.
function s:refused(channel, method, ...) abort
  try
    let result = call('rpcrequest', [a:channel, a:method] + a:000)
  catch
    return v:exception
  endtry
  throw 'FAILED  ' .. a:method .. ' is refused: ' .. string(result)
endfunction

function s:main() abort
  let first = sockconnect('tcp', argv(0), {'rpc': v:true})
  let near = sockconnect('tcp', argv(1), {'rpc': v:true})
  call s:same('both nodes are there', [first > 0, near > 0], [1, 1])

  call s:same('no result', rpcrequest(first, 'demo.reset'), v:null)
  call s:same('one result', rpcrequest(first, 'demo.add', 20, 22), 42)
  call s:same('several results', rpcrequest(first, 'demo.divide', 17, 5), [3, 2])
  let value = [1, -1, 1.5, 'ü', v:null, v:true, {'a': [{}]}, range(20), repeat('x', 70000)]
  call s:same('rpc.echo gives back what it got', call('rpcrequest', [first, 'rpc.echo'] + value), value)
  call rpcnotify(first, 'demo.count', 5)
  call s:same('a notification ran, in order', rpcrequest(first, 'demo.count', 0), 5)
  for method in ['no.such.function', 'demo.panic']
    call s:same(method .. ' is refused', s:refused(first, method) =~# "Error invoking '" .. method, 1)
  endfor
  call s:same('wrong parameters are refused', s:refused(first, 'demo.add', 'one', 'two') =~# 'demo.add', 1)

  call s:same('a program', rpcrequest(near, 'program.echo', 'ü'), 'ü')
  call s:same('another node', rpcrequest(near, 'demo.add', 20, 22), 42)
  call s:same('another node, several results', rpcrequest(near, 'demo.divide', 17, 5), [3, 2])
  call s:same('a program that fails', s:refused(near, 'program.fails') =~# 'program.fails', 1)
  call s:same('and the nodes go on', rpcrequest(near, 'demo.add', 1, 1), 2)
  call chanclose(first)
  call chanclose(near)
endfunction

try
  call s:main()
catch
  echo v:exception .. ' at ' .. v:throwpoint .. "\n"
  cquit 1
endtry
echo "done\n"
qall!
