" Offers Neovim's own function nvim_eval at a node, over MessagePack-RPC. Run as
"   nvim --clean --headless -S offers_neovim.vim HOST:PORT

let node = sockconnect('tcp', argv(0), {'rpc': v:true})
call rpcrequest(node, 'rpc.offer', 'nvim_eval', 'evaluates an expression', ['expr'])
