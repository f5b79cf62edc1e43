import { mount } from 'svelte'
import App from './App.svelte'
import './ui/app.css'

const target = document.getElementById('app')
if (!target) throw new Error('index.html has no element with the id "app", where the page should stand.')
mount(App, { target })
